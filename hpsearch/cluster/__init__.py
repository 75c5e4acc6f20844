"""The search on Ray's side: the session, its nodes, and the workers that run trials.

session: one quiet Ray session, where trials run and how many fit; nodes: what every node must have; needs: processors
and GPUs of one trial; worker: a trial on a worker; gpu_share: trials side by side on a GPU; notice: a worker about to
go; watch: what looks on while trials run; clusterfile: `doctor --cluster`.
"""
