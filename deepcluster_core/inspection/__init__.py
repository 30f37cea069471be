"""What people look for among images: neighbours, duplicates, outliers, and places on a map."""
