"""Point clouds: archives, tables of coordinates, and surfaces sampled by area, alone or in folders named by class."""

from linmap.data.clouds.point_clouds import PointClouds
from linmap.data.clouds.reading import ldraw_shapes, load_clouds

__all__ = ["PointClouds", "ldraw_shapes", "load_clouds"]
