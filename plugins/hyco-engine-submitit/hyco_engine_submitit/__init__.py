"""Members of a sweep of hyco-engine as jobs of a cluster, by submitit."""

from hyco_engine_submitit.jobs import MemberJob, submit

__all__ = ["MemberJob", "submit"]
