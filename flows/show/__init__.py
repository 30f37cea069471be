"""What people look at: tables, pictures and reports. Nothing here needs Prefect."""
