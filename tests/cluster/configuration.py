"""What a test cluster looks like, and the configuration files of Slurm that say so. No process is started here."""
from __future__ import annotations

import getpass
import json
import os
import random
import shutil
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TOOLS = ("sbatch", "srun", "salloc", "scancel", "squeue", "sacct", "sacctmgr", "scontrol", "sinfo", "sprio")


@dataclass
class Options:
    """The choices of a cluster. Times in seconds, memory in MB."""

    nodes: int = 4
    cpus: int = 8                # declared per node, whatever the machine has
    gpus: int = 4                # pretended: links to /dev/null
    memory: int = 16000
    owner: int = 0               # the cluster ends when this process does (0: none)
    preempt: str = "signal"      # signal: USR2, then the grace time; plain: SIGTERM and 5 s later SIGKILL
    grace: int = 10              # of the preemptable partition
    cred_expire: int = 8         # also the wait before a requeued job may start (stock Slurm: 120)
    max_array: int = 1001        # array indices stay below it
    max_submit: int = 0          # jobs (array elements count) one user may have in the queue; 0: no limit
    slurmd_timeout: int = 10
    accounting: bool = True
    template: str = ""           # datadir of an earlier cluster to copy: 9 s of start become 2
    keep: bool = False           # leave the directory at the end

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= 99:
            raise ValueError(f"{self.nodes} nodes: between 1 and 99 are possible")
        if self.preempt not in ("signal", "plain"):
            raise ValueError(f"preempt={self.preempt}: choose signal or plain")


@dataclass
class Layout:
    """Names and ports of one cluster, as stored in its `meta.json`."""

    nodes: list[str]
    user: str
    db_port: int
    dbd_port: int
    ctld_port: int
    node_ports: dict[str, int]
    options: Options
    name: str = "virtual"
    started: dict[str, float] = field(default_factory=dict)

    def save(self, root: Path) -> None:
        (root / "meta.json").write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, root: Path) -> Layout:
        values: dict[str, Any] = json.loads((root / "meta.json").read_text())
        return cls(**{**values, "options": Options(**values["options"])})


def free_ports(count: int) -> list[int]:
    """Distinct free TCP ports below the ephemeral range (32768), held open together while they are looked for."""
    sockets: list[socket.socket] = []
    try:
        while len(sockets) < count:
            candidate = socket.socket()
            try:
                candidate.bind(("0.0.0.0", random.randint(10000, 30000)))
            except OSError:
                candidate.close()
                continue
            sockets.append(candidate)
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def lay_out(root: Path, options: Options) -> Layout:
    """Choose names and ports and write every file that the daemons read.

    Nodes are called 0x7f000001, ...: the C library reads that as 127.0.0.1, so that MASTER_ADDR resolves everywhere
    without touching /etc/hosts."""
    ports = free_ports(options.nodes + 3)
    names = [f"0x7f0000{number:02d}" for number in range(1, options.nodes + 1)]
    layout = Layout(names, getpass.getuser(), ports[0], ports[1], ports[2],
                    dict(zip(names, ports[3:], strict=True)), options)
    for folder in ("log", "state", "munge", "spool", "gpu", "db", "bin"):
        (root / folder).mkdir(mode=0o755, exist_ok=True)
    key = os.open(root / "munge" / "munge.key", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(key, os.urandom(128))
    os.close(key)
    for number in range(options.gpus):
        link = root / "gpu" / f"gpu{number}"
        if not link.is_symlink():
            link.symlink_to("/dev/null")
    _wrap_tools(root)
    (root / "slurm.conf").write_text(_slurm_conf(root, layout))
    last = options.gpus - 1
    files = f"{root}/gpu/gpu[0-{last}]" if last > 0 else f"{root}/gpu/gpu0"
    devices = "".join(f"NodeName={name} Name=gpu File={files}\n" for name in names)
    (root / "gres.conf").write_text(devices if options.gpus else "")
    dbd = root / "slurmdbd.conf"
    dbd.write_text(_slurmdbd_conf(root, layout))
    dbd.chmod(0o600)  # slurmdbd insists
    layout.save(root)
    return layout


def _wrap_tools(root: Path) -> None:
    """DIR/bin: the commands bound to this cluster (PATH alone picks it), each call noted in DIR/calls.log.

    The note is `name exit-status arguments`, written after the call; tests count sbatch calls by it."""
    for tool in TOOLS:
        real = shutil.which(tool, path="/usr/local/bin:/usr/bin")
        if real:
            wrapper = root / "bin" / tool
            wrapper.write_text(f'#!/bin/sh\nexport SLURM_CONF={root}/slurm.conf\n{real} "$@"\nstatus=$?\n'
                               f'echo "{tool} $status $*" >> {root}/calls.log\nexit $status\n')
            wrapper.chmod(0o755)


def _slurm_conf(root: Path, layout: Layout) -> str:
    options, socket_path = layout.options, root / "munge" / "munge.socket.2"
    gres = f" Gres=gpu:{options.gpus}" if options.gpus else ""
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={layout.node_ports[name]} CPUs={options.cpus} "
        f"Boards=1 SocketsPerBoard=1 CoresPerSocket={options.cpus} ThreadsPerCore=1 RealMemory={options.memory}{gres} "
        "State=UNKNOWN"
        for name in layout.nodes)
    accounting = f"""AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={layout.dbd_port}
AccountingStoragePass={socket_path}
AccountingStorageTRES=gres/gpu
{"AccountingStorageEnforce=associations,limits" if options.max_submit else ""}
""" if options.accounting else "AccountingStorageType=accounting_storage/none\n"
    signalled = options.preempt == "signal"
    everywhere = ",".join(layout.nodes)
    return f"""\
ClusterName={layout.name}
SlurmctldHost={socket.gethostname()}(127.0.0.1)
SlurmctldPort={layout.ctld_port}
SlurmUser={layout.user}
SlurmdUser={layout.user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={socket_path},cred_expire={options.cred_expire}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
SlurmctldDebug=info
SlurmdDebug=info
MailProg=/bin/true
SwitchType=switch/none
MpiDefault=none
# no cgroups, no affinity; pgid and not linuxproc, which lets orphans hang a job in COMPLETING and drain the node
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
# the declared hardware wins over what slurmd finds
SlurmdParameters=config_overrides
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
# quick reactions
SlurmctldTimeout=30
SlurmdTimeout={options.slurmd_timeout}
InactiveLimit=0
KillWait=2
CompleteWait=0
UnkillableStepTimeout=30
MinJobAge=600
ReturnToService=1
BatchStartTimeout=10
MessageTimeout=10
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=0
OverTimeLimit=0
TreeWidth=65533
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{"SlurmctldParameters=preempt_send_user_signal" if signalled else ""}
MaxArraySize={options.max_array}
MaxJobCount=10000
{accounting}
{nodes}
PartitionName=debug Nodes={everywhere} Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=REQUEUE \
GraceTime={options.grace if signalled else 0}
PartitionName=high Nodes={everywhere} MaxTime=INFINITE State=UP PriorityTier=100 PreemptMode=OFF
"""


def _slurmdbd_conf(root: Path, layout: Layout) -> str:
    return f"""\
AuthType=auth/munge
AuthInfo=socket={root}/munge/munge.socket.2
DbdHost={socket.gethostname()}
DbdAddr=127.0.0.1
DbdPort={layout.dbd_port}
SlurmUser={layout.user}
PidFile={root}/slurmdbd.pid
LogFile={root}/log/slurmdbd.log
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={layout.db_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
"""
