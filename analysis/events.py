"""TensorBoard event files of final numbers: scalars, hyper-parameters, the layout of custom charts.

Built from TensorBoard's protocol buffers directly; its own helpers for hyper-parameters need TensorFlow."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Events:
    """Summaries of one folder, all with time 0, so that making the folder again changes nothing but its name."""

    def __init__(self, writer: Any):
        self._writer = writer

    def add(self, summary: Any, step: int = 0) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=0.0, step=step, summary=summary))

    def scalar(self, tag: str, value: float, step: int = 0) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.add(Summary(value=[Summary.Value(tag=tag, simple_value=value)]), step)

    def experiment(self, axes: Mapping[str, bool], tags: Sequence[str]) -> None:
        """Declare the columns of the HParams tab. axes: name -> whether it is a number; tags: final scores."""
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        infos = [api_pb2.HParamInfo(name=name, type=api_pb2.DATA_TYPE_FLOAT64 if number else api_pb2.DATA_TYPE_STRING)
                 for name, number in axes.items()]
        metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=tag) for tag in tags]
        content = api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics)
        self._hparams(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=content))

    def session(self, values: Mapping[str, Any]) -> None:
        """The axes of one run, as a finished session."""
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        start = plugin_data_pb2.SessionStartInfo()
        for name, value in values.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                start.hparams[name].number_value = value
            else:
                start.hparams[name].string_value = str(value)
        end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS)
        self._hparams(metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=start))
        self._hparams(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end))

    def _hparams(self, tag: str, content: Any) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import metadata

        self.add(Summary(value=[Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(content),
                                              tensor=metadata.NULL_TENSOR)]))

    def layout(self, categories: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Custom charts: category -> chart title -> regular expressions of the tags that it shows."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.plugins.custom_scalar import layout_pb2, metadata

        made = layout_pb2.Layout(category=[layout_pb2.Category(title=title, chart=[
            layout_pb2.Chart(title=name, multiline=layout_pb2.MultilineChartContent(tag=list(tags)))
            for name, tags in charts.items()]) for title, charts in categories.items()])
        tensor = TensorProto(dtype="DT_STRING", string_val=[made.SerializeToString()], tensor_shape=TensorShapeProto())
        self.add(Summary(value=[Summary.Value(tag="custom_scalars__config__", tensor=tensor,
                                              metadata=metadata.create_summary_metadata())]))


@contextmanager
def events(folder: Path) -> Iterator[Events]:
    """An open event file in `folder`, closed when the block ends."""
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    folder.mkdir(parents=True, exist_ok=True)
    writer = EventFileWriter(str(folder))
    try:
        yield Events(writer)
    finally:
        writer.close()
