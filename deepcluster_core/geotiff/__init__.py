"""GeoTIFF scenes: cut into windows that are images, and maps of the windows' clusters."""
