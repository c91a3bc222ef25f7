"""``python -m pasidlab`` is the ``pasidlab`` command."""

from pasidlab.cli import main

raise SystemExit(main())
