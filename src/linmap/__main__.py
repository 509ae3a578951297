"""`python -m linmap` is `linmap`."""

from linmap.cli import main

raise SystemExit(main())
