"""Serve a page that shows what networks find in an image that is dropped on it.

Without a MODEL, it shows the networks that ship. Each MODEL is the name of one of these; a config
with its checkpoint after it; an exported file (.onnx, .xml); or a folder, with exported files or of
a training. The page takes images of up to 20 MB and 50 million pixels, loads nothing from other
machines and sends nothing to them.
"""

import argparse
import sys
import time
from contextlib import suppress


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", metavar="MODEL", nargs="*")
    parser.add_argument("--device", default="cpu", help="of PyTorch: cpu, cuda, … (default: cpu)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    """Serve until Ctrl-C."""
    from mmhcgnet.cli import web

    networks = web.find_networks(args.models, args.device)
    if args.host not in ("127.0.0.1", "localhost", "::1"):
        print(
            "warning: whoever reaches this machine can use the page, which has no password, and "
            "images are sent to it unencrypted.",
            file=sys.stderr,
        )
    print(f"Opening {next(iter(networks))} …", flush=True)
    with web.serve(networks, args.host, args.port) as url:
        print(f"The page is at {url} until you press Ctrl-C.", flush=True)
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


def main() -> None:
    args = parse_args()
    try:
        from mmhcgnet.cli.report import report_usage_errors
    except KeyboardInterrupt:
        sys.exit(130)
    with report_usage_errors():
        run(args)


if __name__ == "__main__":
    main()
