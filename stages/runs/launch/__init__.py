"""How several processes, the ranks, make an artifact together: started, watched and stopped."""
