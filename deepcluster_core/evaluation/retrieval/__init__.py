"""Instance retrieval on Oxford and Paris Buildings: R-MAC descriptors and average precision."""
