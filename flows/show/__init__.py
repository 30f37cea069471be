"""What a person looks at: tables, pictures, reports and progress. Needs no Prefect."""
