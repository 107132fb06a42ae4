"""The fields scheme: the fields of the source that are predicted, those that are only inputs, and their order."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from hyco_engine.data.contracts import Trajectory
from hyco_engine.data.fields import FieldInfo, StateLayout
from hyco_engine.data.masks import corner
from hyco_engine.data.settings import FieldsScheme
from hyco_engine.errors import DataError
from hyco_engine.hooks.checking import did_you_mean


@attrs.frozen(kw_only=True)
class Selection:
    """The chosen layout, and the layout of the source from which `apply` takes its fields."""

    source: StateLayout
    layout: StateLayout

    @classmethod
    def of(cls, source: StateLayout, scheme: FieldsScheme) -> Selection:
        """Choose the listed fields, in listed order; an empty scheme takes all fields as the source has them.

        If `dynamic` is left out, all dynamic fields of the source that are not listed as static are predicted. Scalars
        and groups of simulations always stay. Raises DataError for unknown names, names that are listed twice, and a
        static field that is listed as dynamic.
        """
        if not scheme.dynamic and not scheme.static:
            return cls(source=source, layout=source)
        known = {field.name: field for field in source.fields}
        for group, names in (("dynamic", scheme.dynamic), ("static", scheme.static)):
            for name in names:
                if name not in known:
                    raise DataError(
                        f"the data has no field {name!r}{did_you_mean(name, known)} (its fields: {', '.join(known)})",
                        key=f"data.fields.{group}",
                    )
                if (*scheme.dynamic, *scheme.static).count(name) > 1:
                    raise DataError(f"the field {name!r} is listed twice", key=f"data.fields.{group}")
        fixed = {field.name for field in source.static}
        for name in scheme.dynamic:
            if name in fixed:
                raise DataError(
                    f"the field {name!r} has no time axis, so it cannot be predicted; list it as static",
                    key="data.fields.dynamic",
                )
        moving = [field.name for field in source.dynamic if field.name not in scheme.static]
        dynamic = scheme.dynamic or tuple(moving)
        if not dynamic:
            raise DataError(
                "every field is listed as static, so none is predicted; list one as dynamic", key="data.fields.static"
            )
        layout = StateLayout(
            grid=source.grid,
            dynamic=tuple(known[name] for name in dynamic),
            static=tuple(known[name] for name in dict.fromkeys((*scheme.static, *source.scalars, *source.indices))),
        )
        return cls(source=source, layout=layout)

    def apply(self, trajectory: Trajectory, index: int) -> Trajectory:
        """Return the chosen fields of simulation `index`. Raises DataError if a static field changes in time."""
        if self.layout == self.source:
            return trajectory
        moving = {field.name for field in self.source.dynamic}
        dynamic = trajectory.dynamic[:, self._channels(self.layout.dynamic)]
        parts = []
        for field in self.layout.static:
            channels = self._channels([field])
            if field.name in moving:
                parts.append(_frozen(trajectory.dynamic[:, channels], field.name, index))
            else:
                parts.append(trajectory.static[channels - self.source.n_dynamic])
        # without some staggered fields, the others may need fewer samples
        crop = corner(self.layout.spatial)
        static = torch.cat(parts) if parts else trajectory.static[:0]
        return Trajectory(dynamic=dynamic[crop], static=static[crop])

    def of_points(self, values: Tensor) -> Tensor:
        """Return the chosen dynamic fields of `[N, C_dyn]` at points; points have no static fields."""
        return values[:, self._channels(self.layout.dynamic)]

    def _channels(self, fields: Sequence[FieldInfo]) -> Tensor:
        return torch.tensor(self.source.places(fields))


def _frozen(values: Tensor, name: str, index: int) -> Tensor:
    """Return the first frame of `[T, C, *S]`. Raises DataError if another frame differs from it."""
    for frame in range(1, len(values)):
        if not torch.equal(values[frame], values[0]):
            raise DataError(
                f"the field {name!r} is listed as static, but in simulation {index} frame {frame} differs from "
                f"frame 0; list it as dynamic",
                key="data.fields.static",
            )
    return values[0]
