"""Any method of the PEFT library that works on layers, by its name there and with its own settings."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar

from pydantic import ConfigDict, Field

from luthier.adapters import adapters
from luthier.adapters.injection.injected import Injected
from luthier.core.errors import ConfigError, Fault
from luthier.core.names import did_you_mean

STATES = "puts states of its own into the layers of a decoder in a way that training does without"
REFUSED = {
    "LORA": ("has a type of its own, with more ways to save it", "adapter.type=lora"),
    "PROMPT_TUNING": ("has a type of its own", "adapter.type=prompt-tuning"),
    "P_TUNING": ("has a type of its own", "adapter.type=p-tuning"),
    "PREFIX_TUNING": ("has a type of its own", "adapter.type=prefix-tuning"),
    **dict.fromkeys(("CARTRIDGE", "ADAPTION_PROMPT"), (STATES, "adapter.type=prefix-tuning")),
    **dict.fromkeys(("MULTITASK_PROMPT_TUNING", "CPT"), ("wants more with every row than tokens", "adapter.type=prompt-tuning")),
    "ADALORA": ("has a type of its own", "adapter.type=adalora"),
    "XLORA": ("mixes adapters that were trained before", "adapter.type=lora"),
    "POLY": ("wants the number of a task with every row", "adapter.type=lora"),
    "SHADOW": ("trains a second model beside the first", "adapter.type=lora"),
}
OURS = {
    *("peft_type", "task_type", "base_model_name_or_path", "inference_mode", "modules_to_save", "auto_mapping", "revision", "peft_version")
}


@adapters.add
class Peft(Injected):
    """Any other method of the PEFT library; that a fresh one changes nothing is tried out before the first step.

    Args:
        method: Its name in the PEFT library; all other keys are those of its configuration there.

    Reference: https://huggingface.co/docs/peft
    """

    model_config = ConfigDict(extra="allow")
    is_probed: ClassVar[bool] = True

    method: str = Field("LOHA", description="Method by its name in the PEFT library, such as BOFT; other keys are those of its config.")

    def peft_config(self, host: Any, shared: dict[str, Any]) -> Any:
        """Return the configuration; see `Injected.peft_config`.

        Raises:
            ConfigError: if there is no such method or setting, or the method wants what training does not give.
        """
        name, config_class = self._found()
        known = {field.name for field in fields(config_class) if field.init}
        own = dict(self.model_extra or {})
        wrong = [key for key in own if key not in known - OURS]
        if wrong:
            raise ConfigError(
                [Fault(f"adapter.{key}", f"{name} has no such setting", did_you_mean(key, sorted(known - OURS))) for key in wrong]
            )
        if "target_modules" in known:
            own.setdefault("target_modules", "all-linear")
        try:
            return config_class(**{key: value for key, value in (shared | own).items() if key in known})
        except (ValueError, TypeError) as error:
            raise ConfigError([Fault("adapter", f"{name}: {str(error).splitlines()[0]}", "see its page in the docs of peft")]) from error

    @classmethod
    def example(cls) -> Peft:
        """Return settings that the contract tests run on."""
        return cls(method="LOHA", r=4)

    def _found(self) -> tuple[str, Any]:
        """Return the name of the method as the PEFT library writes it, and the class of its configuration."""
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        methods = {kind.value: config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
        name = self.method.upper().replace("-", "_")
        if name in REFUSED:
            why, fix = REFUSED[name]
            raise ConfigError([Fault("adapter.method", f"{name} {why}", fix)])
        if name not in methods:
            names = sorted(methods.keys() - REFUSED.keys())
            raise ConfigError([Fault("adapter.method", f"the PEFT library has no method '{self.method}'", did_you_mean(name, names))])
        return name, methods[name]
