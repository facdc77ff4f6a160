"""Becomes a program that refuses to run as root, as somebody else; it ends with the process PARENT (0: with nobody).

    python unprivileged.py PARENT FOLDER PROGRAM ARGUMENT…

A program of its own, so that nobody has to run Python between fork and exec. Standard library only: it starts in 20 ms.

An ordinary user stays who he is. Root becomes the owner of FOLDER; where that user may not reach the program or the
folder (a checkout below /root), he keeps one privilege of root, the right to pass. If FOLDER belongs to root, because
root may not become anybody else here (a container without capabilities), a user namespace that maps nobody lets the
program see the kernel's overflow user, `nobody`, while files are still made as their real owner.
"""

import ctypes
import os
import pwd
import sys

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_SECUREBITS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 1, 8, 28, 47, 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAP_DAC_OVERRIDE, CAP_SETPCAP = 1, 8
CAPABILITY_VERSION_3 = 0x20080522
SIGQUIT = 3  # importing signal takes 6 ms

NOBODY = "0"

LINUX = sys.platform == "linux"


def main(parent: str, folder: str, program: str, *arguments: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    os.chdir("/")  # the current folder may be one that the new user cannot read
    owner = os.stat(folder)
    if os.geteuid() == 0 and owner.st_uid != 0:
        _become(libc, owner, needed=(program, folder))
    elif os.geteuid() == 0 or not _has_a_name(os.geteuid()):
        _enter_user_namespace(libc)
    if parent != NOBODY:
        if LINUX:  # last, because a change of user clears it
            libc.prctl(PR_SET_PDEATHSIG, SIGQUIT)
        if os.getppid() != int(parent):
            sys.exit("the process that asked for this has ended")
    os.execv(program, [program, *arguments])


def _become(libc: ctypes.CDLL, owner: os.stat_result, needed: tuple[str, str]) -> None:
    if LINUX:
        libc.prctl(PR_SET_KEEPCAPS, 1)
    try:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)
    except OSError as error:
        sys.exit(f"root may not become user {owner.st_uid} here, to whom {needed[1]} belongs ({error.strerror})")
    if not all(os.access(path, os.R_OK | os.X_OK) for path in needed):
        _keep_the_right_to_pass(libc, needed)


def _keep_the_right_to_pass(libc: ctypes.CDLL, needed: tuple[str, str]) -> None:
    """CAP_DAC_OVERRIDE for the program and what it starts; every other capability goes.

    Without the secure bit access(2), by which initdb looks for its helpers, would leave the capability out of account.
    """
    kept = LINUX and (
        _set_capabilities(libc, CAP_DAC_OVERRIDE, CAP_SETPCAP)
        and libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) == 0
        and _set_capabilities(libc, CAP_DAC_OVERRIDE)
        and libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0) == 0
    )
    if not kept:
        places = " or ".join(needed)
        sys.exit(
            f"PostgreSQL refuses root, and user {os.geteuid()} cannot reach {places}: move them, or set DATABASE_URL"
        )


def _set_capabilities(libc: ctypes.CDLL, *capabilities: int) -> bool:
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    wanted = sum(1 << capability for capability in capabilities)
    sets = (ctypes.c_uint32 * 6)(wanted, wanted, wanted)  # effective, permitted, inheritable; then their upper halves
    return libc.capset(header, sets) == 0


def _enter_user_namespace(libc: ctypes.CDLL) -> None:
    if not LINUX or libc.unshare(CLONE_NEWUSER):
        uid = os.geteuid()
        why = (
            f"user {uid} has no name here" if uid else "PostgreSQL refuses root, which may not become anybody else here"
        )
        sys.exit(f"{why}, and user namespaces are not allowed: run as an ordinary user, or set DATABASE_URL")


def _has_a_name(uid: int) -> bool:
    """initdb insists on one; a container started with an arbitrary user id gives none."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
