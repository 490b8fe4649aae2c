"""Mistakes of the machine and of the service: a TPM, pcscd, an agent, units, the clock, proxies and CAs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

import certs
from hwsigner.cli.doctor import machine
from hwsigner.emulator import Emulator, Fault, World
from hwsigner.emulator.tls import ServerTLS
from patients import Patient
from ports import reserve_port
from scene import Outcome
from softhsm.command import run
from softhsm.tpm import SoftTPM

SRK = "0x81000001"
