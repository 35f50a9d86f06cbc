"""What "good" means: data splits, a metric, a workload."""

from packlight.task.data import ArrayData, Data, LoaderData
from packlight.task.metrics import Metric
from packlight.task.task import Task, Workload

__all__ = ["ArrayData", "Data", "LoaderData", "Metric", "Task", "Workload"]
