"""What people take away from a run: tables, folders of pictures, choices of images."""
