"""RUN/logs: what each process logs, in a file of its own."""

import contextlib
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def host_log(file: Path) -> Iterator[None]:
    """While it is open, log messages go there, too, and the traceback of what ends the body."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.root.addHandler(handler)
    try:
        yield
    except Exception:
        traceback.print_exc(file=handler.stream)
        raise
    finally:
        logging.root.removeHandler(handler)
        handler.close()
