"""Any stage on a SLURM cluster: ``kinesic slurm STAGE ...``. Launches commands; imports no stage."""
