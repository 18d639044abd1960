# SPDX-License-Identifier: Apache-2.0
"""``xnortvm bench``: how fast a model is, beside other engines, or how fast the kernels are."""

from __future__ import annotations

import argparse

from xnortvm.emulation.cores import CORES
from xnortvm.errors import ModelError, XnortvmError
from xnortvm.tools import model_arg, peers
from xnortvm.tools.outcome import Outcome

HELP = "time a compiled model beside other engines, its layers, or what this machine can do"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    model_arg.add_arguments(parser, optional=True)
    model_arg.add_stem(parser)
    model_arg.add_records(parser)
    what = parser.add_argument_group("what is timed, if not whole calls of MODEL")
    what.add_argument(
        "--layers",
        action="store_true",
        help="every layer of MODEL in its place in the network, or common binary layers without "
        "MODEL; in TBMAC/s (10^12 binary multiply-accumulates a second), GB/s, and as a share of "
        "what this machine can do",
    )
    what.add_argument(
        "--machine",
        action="store_true",
        help="what one core of this machine can do at most; measured once and kept",
    )
    what.add_argument(
        "--model-cost",
        metavar="CORES",
        help="what MODEL, or common layers, would cost on ARM cores, separated by commas: "
        f"{', '.join(CORES)}; the code runs in an emulator (qemu-user) and is modelled by llvm-mca",
    )
    what.add_argument(
        "--clock-ghz", type=float, default=1.5, metavar="GHZ", help="of these cores, for times"
    )
    board = parser.add_argument_group("on a board, through TVM's RPC tracker")
    board.add_argument(
        "--rpc",
        metavar="HOST:PORT",
        help="the tracker; MODEL is compiled for --target, sent to a board, checked and timed "
        "there; a folder of `xnortvm compile -o FOLDER/` is sent as it is",
    )
    board.add_argument("--key", metavar="KEY", help="under which the board registered")
    board.add_argument(
        "--timeout", type=float, default=600.0, metavar="S", help="seconds for all of it"
    )
    parser.add_argument("--num-threads", type=int, default=1, metavar="N", help="threads of all")
    parser.add_argument("--repeats", type=int, metavar="N", help="timed calls of each engine")
    parser.add_argument(
        "--against",
        metavar="PEERS",
        default="",
        help=f"engines to compare with, separated by commas, or all: {', '.join(peers.PEERS)}",
    )
    parser.add_argument(
        "--peer-python",
        metavar="PEER=PATH",
        action="append",
        default=[],
        help="the Python in which a peer's packages are installed; as often as needed, or in "
        f"the environment variable {peers.PYTHON_VARIABLE}",
    )
    parser.add_argument("--profile", action="store_true", help="show the time of every kernel")
    parser.add_argument(
        "--plot", metavar="FILE", help="with --layers: draw a roofline, as .png, .svg or .pdf"
    )
    parser.add_argument(
        "--refresh", action="store_true", help="measure the limits of this machine again"
    )


def run(args: argparse.Namespace) -> Outcome:
    """Time what is asked for."""
    from xnortvm.tools import (  # they load TVM
        bench_cost,
        bench_layers,
        bench_machine,
        bench_model,
        bench_rpc,
    )

    if args.repeats is not None and args.repeats < 1:
        raise XnortvmError(f"--repeats={args.repeats} is not a number of calls; give at least 1")
    if args.rpc is not None:
        return bench_rpc.run(args)
    if args.plot and not args.layers:
        raise ModelError("--plot draws the layers; give --layers too")
    if args.model_cost is not None:
        return bench_cost.run(args)
    if args.machine:
        return bench_machine.run(args)
    if args.layers:
        return bench_layers.run(args)
    if args.model is None:
        raise ModelError("there is nothing to time: name a MODEL, or give --layers or --machine")
    return bench_model.run(args)
