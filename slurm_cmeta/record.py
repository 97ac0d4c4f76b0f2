"""Named tuples that cost nothing to define.

`typing.NamedTuple` compiles code for each class, and importing `typing` takes as long as all that a
submission does with an image: the submit path has some sixty such classes, in a process that lives
for 30 ms. This one has the same meaning, fields by annotation included, and type checkers take it
for the other. A module that uses it needs `from __future__ import annotations`.
"""

from __future__ import annotations

TYPE_CHECKING = False
"""Type checkers take it for True, as they do with typing.TYPE_CHECKING."""

if TYPE_CHECKING:
    from functools import cached_property as cached_property
    from typing import NamedTuple as NamedTuple
else:
    from _collections import _tuplegetter

    class cached_property:  # noqa: N801 - takes the place of functools.cached_property
        """A property that is worked out once; see functools, which is not imported for it."""

        def __init__(self, function):
            self.function, self.name, self.__doc__ = function, function.__name__, function.__doc__

        def __get__(self, instance, owner=None):
            if instance is None:
                return self
            value = instance.__dict__[self.name] = self.function(instance)
            return value

    class _RecordType(type):
        """Makes classes whose instances are tuples, with a name for each place."""

        def __new__(cls, name, bases, namespace):
            if any(getattr(base, "_fields", ()) for base in bases):
                return super().__new__(cls, name, bases, namespace)  # adds methods, no fields
            fields = tuple(namespace.get("__annotations__", ()))
            defaults = {field: namespace.pop(field) for field in fields if field in namespace}
            for place, field in enumerate(fields):
                namespace[field] = _tuplegetter(place, None)
            namespace["__slots__"] = ()
            namespace["__match_args__"] = namespace["_fields"] = fields
            namespace["_field_defaults"] = defaults
            return super().__new__(cls, name, bases, namespace)

    class NamedTuple(tuple, metaclass=_RecordType):
        """Base of all records; see typing.NamedTuple."""

        def __new__(cls, *values, **named):
            if named or len(values) != len(cls._fields):
                values = _completed(cls, values, named)
            return tuple.__new__(cls, values)

        @classmethod
        def _make(cls, values):
            made = tuple.__new__(cls, values)
            if len(made) != len(cls._fields):
                raise TypeError(f"Expected {len(cls._fields)} arguments, got {len(made)}")
            return made

        def _replace(self, **named):
            made = self._make(map(named.pop, self._fields, self))
            if named:
                raise ValueError(f"Got unexpected field names: {list(named)!r}")
            return made

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            shown = ", ".join(f"{k}={v!r}" for k, v in self._asdict().items())
            return f"{type(self).__name__}({shown})"

        def __getnewargs__(self):
            return tuple(self)

    def _completed(cls, values, named):
        """Return one value for each field; raise TypeError as a function would."""
        fields, name = cls._fields, cls.__name__
        if len(values) > len(fields):
            raise TypeError(f"{name} takes {len(fields)} values, and {len(values)} were given")
        found = [*values]
        for field in fields[len(values) :]:
            if field in named:
                found.append(named.pop(field))
            elif field in cls._field_defaults:
                found.append(cls._field_defaults[field])
            else:
                raise TypeError(f"{name} misses a value for {field!r}")
        if named:
            raise TypeError(f"{name} takes no (second) value for {next(iter(named))!r}")
        return found
