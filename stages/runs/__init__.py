"""What a run is: its folder, recipe, plan of jobs and states. Needs no Prefect."""
