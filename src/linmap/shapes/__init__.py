"""Learn on shapes whatever their pose."""
