# SPDX-License-Identifier: Apache-2.0
"""Run compiled kernels for ARM on this machine, and say what they would cost on real cores.

The steps are files: `network` turns a scheduled module into a `Program`; `run` links programs with
a small C driver and runs them in qemu; a plugin of ours (``profile.c``) counts what is executed
there (`profile`); `mca` asks LLVM's scheduling models how long that takes (`cost`).

Neither Python nor TVM's runtime is needed on the emulated side.
"""
