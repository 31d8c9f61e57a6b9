"""What can be wrong with images and annotations, found before a run and explained in it."""
