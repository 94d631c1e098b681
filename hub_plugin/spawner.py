"""Spawners that give a server a slice of a remote GPU, and take it back.

:class:`GPULeaseMixin` goes before any spawner class. It asks the broker for a lease before the
server starts, puts the slice into the server's environment, keeps the lease while the server
runs, and ends it with the server. It knows the broker's client and nothing of where servers run.

The hub may die at any instant: then nobody keeps the lease, and the broker ends it after its TTL.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from jupyterhub.spawner import SimpleLocalProcessSpawner
from sqlalchemy.orm import object_session
from traitlets import Bool, Dict, Float, List, TraitError, Unicode, default, validate
from traitlets.config import LoggingConfigurable

from gpu_broker.client import AsyncBrokerClient, BrokerError, Denied, NotFound, Unavailable
from gpu_broker.models import Capacity, Credentials, Quota
from hub_plugin import form
from hub_plugin.ports import free_ports
from hub_plugin.refusal import INVALID, refusal, refused_by_broker
from hub_plugin.slices import InvalidChoice, Size, Slice, from_form, from_options, read_sizes
from remote_gpu.environment import slice_environment, without_slice

PROVISIONER = "carrel-provisioner"
# Asking for a page must not wait long for a broker that is away.
_FORM_TIMEOUT_S = 3.0
# A heartbeat that failed is tried again soon, because the TTL goes on running.
_RETRY_S = 2.0


if TYPE_CHECKING:
    from jupyterhub.spawner import Spawner as _Base
else:
    # Not Spawner: the hub checks each subclass of that for start, stop and poll of its own.
    _Base = LoggingConfigurable


class GPULeaseMixin(_Base):  # type: ignore[misc]
    """Put before a spawner class: ``class MySpawner(GPULeaseMixin, KubeSpawner)``."""

    broker_url = Unicode(
        "http://127.0.0.1:8095/services/gpu",
        help="Where the hub reaches the GPU broker, with its prefix.",
    ).tag(config=True)
    broker_token = Unicode(
        help="Hub token with the scope custom:gpu:admin, by which leases are taken for people. "
        "Default: $CARREL_BROKER_TOKEN of the hub. hub_plugin.configure() makes one."
    ).tag(config=True)
    gpu_sizes = List(
        Dict(),
        help='Slices offered by name: [{"name": "small", "label": "Small", "vram_mib": 2048, '
        '"tflops": 5}]. VRAM in MiB, compute in TFLOPS (dense FP16).',
    ).tag(config=True)
    allow_custom_gpu = Bool(
        True, help="Whether people may ask for their own MiB and TFLOPS besides the named sizes."
    ).tag(config=True)
    gpu_lease_ttl_s = Float(
        180.0,
        help="Seconds after which a lease ends when the hub no longer keeps it, because the hub is "
        "gone. A running hub keeps it by asking three times as often.",
    ).tag(config=True)
    gpu_ready_timeout_s = Float(
        20.0,
        help="Seconds to wait for the GPU host to let a new lease in. Keep it below "
        "Spawner.start_timeout.",
    ).tag(config=True)

    # What this start holds. Reset by every start, so that nothing leaks into the next.
    _lease_id: str = ""
    _credentials: Credentials | None = None
    _software_gpu = False
    _taking: asyncio.Task[Any] | None = None
    _heartbeats: asyncio.Task[None] | None = None
    _steps: tuple[str, ...] = ()
    _settled = False  # whether this start has its GPU, or wants none
    _denial: form.Denial | None = None

    @default("broker_token")
    def _broker_token_from_environment(self) -> str:
        return os.environ.get("CARREL_BROKER_TOKEN", "")

    @validate("gpu_sizes")
    def _readable_sizes(self, proposal: Any) -> Any:
        try:
            read_sizes(proposal.value)
        except ValueError as error:
            raise TraitError(f"gpu_sizes: {error}") from error
        return proposal.value

    @validate("gpu_lease_ttl_s", "gpu_ready_timeout_s")
    def _positive(self, proposal: Any) -> float:
        if not 0 < proposal.value < float("inf"):
            raise TraitError(f"{proposal.trait.name} must be more than 0, not {proposal.value}")
        return float(proposal.value)

    @property
    def sizes(self) -> list[Size]:
        """The named sizes, read."""
        return read_sizes(self.gpu_sizes)

    def gpu_environment(self, credentials: Credentials, env: dict[str, str]) -> dict[str, str]:
        """``env`` with the slice in it. For a server that runs elsewhere, override this."""
        return slice_environment(
            credentials.endpoint,
            credentials.lease,
            credentials.key,
            base=env,
            software=self._software_gpu,
        )

    def _broker(self, timeout_s: float = 10.0) -> AsyncBrokerClient:
        return AsyncBrokerClient(self.broker_url, self.broker_token, timeout_s)

    # ---- before a start: the form ------------------------------------------------------------

    @default("options_form")
    def _gpu_form(self) -> Any:
        return GPULeaseMixin.render_form

    async def render_form(self) -> str:
        """The form's inside, with what is free now. A broker that is away is said, not raised."""
        capacity: Capacity | None = None
        quota: Quota | None = None
        trouble = None
        try:
            async with self._broker(_FORM_TIMEOUT_S) as broker:
                capacity = await broker.capacity()
                quota = await broker.quota(self.user.name)
        except BrokerError as error:
            self.log.warning("No capacity for the spawn form: %s", error)
            trouble = "What is free is not known, because the GPU broker does not answer."
        denial, self._denial = self._denial, None
        return form.render(
            form.environment(),
            sizes=self.sizes,
            allow_custom=self.allow_custom_gpu,
            capacity=capacity,
            quota=quota,
            options=self.orm_spawner.user_options or {} if self.orm_spawner else {},
            denial=denial,
            trouble=trouble,
        )

    @default("options_from_form")
    def _gpu_options_from_form(self) -> Any:
        return self.read_form

    async def read_form(self, fields: dict[str, list[Any]]) -> dict[str, Any]:
        """``user_options`` of the form. Refuses before anything is started, so that the hub
        shows the form again with the reason."""
        options: dict[str, Any] = {}
        try:
            try:
                options = from_form(fields)
                wanted = from_options(options, self.sizes, self.allow_custom_gpu)
            except InvalidChoice as error:
                raise refusal(str(error), INVALID, 422) from error
            if wanted is not None:
                await self._check(wanted)
        except Exception as error:
            message = getattr(error, "jupyterhub_message", None) or str(error)
            # The hub shows the form of the person's default server again, also for a named one.
            self.user.spawner._denial = form.Denial(message, options)
            raise
        return options

    async def _check(self, wanted: Slice) -> None:
        try:
            async with self._broker() as broker:
                await broker.check_lease(
                    wanted.vram_mib, wanted.tflops, user=self.user.name, server_name=self.name
                )
        except BrokerError as error:
            raise refused_by_broker(error) from error

    @default("apply_user_options")
    def _gpu_apply_user_options(self) -> Any:
        return GPULeaseMixin.apply_gpu_options

    def apply_gpu_options(self, options: dict[str, Any]) -> None:
        """Checks options that came by the hub's API and never saw the form."""
        self._wanted(options)

    def _wanted(self, options: dict[str, Any]) -> Slice | None:
        try:
            return from_options(options, self.sizes, self.allow_custom_gpu)
        except InvalidChoice as error:
            # The hub has stored them already, and would offer them to the next start.
            self.user_options: dict[str, Any] = {}
            if session := self.orm_spawner and object_session(self.orm_spawner):
                self.orm_spawner.user_options = {}
                session.commit()
            raise refusal(str(error), INVALID, 422) from error

    # ---- a start and its end -----------------------------------------------------------------

    async def start(self) -> Any:
        """Takes a lease if one is asked for, then starts the server. Never queues."""
        self._reset()
        wanted = self._wanted(self.user_options or {})
        try:
            if wanted is not None:
                await self._take(wanted)
            self._settled = True
            return await super().start()
        except BaseException:
            await self._release("the start failed")
            raise
        finally:
            self._credentials = None  # the server has them

    async def _take(self, wanted: Slice) -> None:
        self._tell(f"Asking for a slice of a GPU: {wanted}")
        async with self._broker() as broker:
            try:
                # Shielded: when the hub gives up on this start, the id must still be learnt, so
                # that _release can end what the broker granted.
                self._taking = asyncio.ensure_future(
                    broker.create_lease(
                        wanted.vram_mib,
                        wanted.tflops,
                        user=self.user.name,
                        server_name=self.name,
                        ttl_s=self.gpu_lease_ttl_s,
                        name=self.name or None,
                        idempotency_key=secrets.token_urlsafe(24),
                    )
                )
                lease = await asyncio.shield(self._taking)
                self._lease_id = lease.id
                self._software_gpu = lease.gpu.software
                self._tell(f"Granted: a slice of {lease.gpu.model} on {lease.gpu.node}")
                self._keep()
                await broker.wait_active(lease.id, self.gpu_ready_timeout_s)
                self._credentials = await broker.credentials(lease.id)
            except asyncio.CancelledError:
                # Here, while the client is open: the answer that holds the id may be on its way.
                await self._release("the start was given up")
                raise
            except BrokerError as error:
                raise refused_by_broker(error) from error
        self._tell("The GPU is ready; starting the server")
        self.log.info("%s has lease %s: %s", self._log_name, self._lease_id, wanted)

    async def stop(self, now: bool = False) -> Any:
        """Stops the server and ends its lease. May be repeated, and at any moment."""
        try:
            return await super().stop(now)
        finally:
            await self._release("the server stopped")

    async def poll(self) -> int | None:
        """Also keeps the lease of a running server, and ends that of one that died unasked."""
        status: int | None = await super().poll()
        if status is None:
            if self._lease_id:
                self._keep()
        elif self._lease_id and not self._start_pending:
            await self._release("the server is gone")
        return status

    async def _release(self, why: str) -> None:
        """Ends the lease, if there is one. A broker that is away lets it end by its TTL."""
        self._credentials = None
        self._settled = False
        self._stop_keeping()
        taking, self._taking = self._taking, None
        if taking is not None and not self._lease_id:
            # Bounded by the client's own timeout.
            answer = (await asyncio.gather(taking, return_exceptions=True))[0]
            self._lease_id = getattr(answer, "id", "")
        lease_id, self._lease_id = self._lease_id, ""
        if not lease_id:
            return
        try:
            async with self._broker() as broker:
                await broker.end_lease(lease_id)
            self.log.info("Released lease %s of %s: %s", lease_id, self._log_name, why)
        except NotFound:
            pass
        except BrokerError as error:
            self.log.warning(
                "Lease %s of %s could not be released (%s); it ends by itself within %g s",
                lease_id, self._log_name, error, self.gpu_lease_ttl_s,
            )  # fmt: skip

    def _reset(self) -> None:
        self._stop_keeping()
        self._taking = None
        self._credentials = None
        self._lease_id = ""
        self._steps = ()
        self._settled = False

    def _tell(self, step: str) -> None:
        self._steps = (*self._steps, step)

    # ---- while the server runs ---------------------------------------------------------------

    def _keep(self) -> None:
        """Makes sure that heartbeats go out; also after a restart of the hub."""
        if self._heartbeats is None or self._heartbeats.done():
            self._heartbeats = asyncio.ensure_future(self._send_heartbeats(self._lease_id))

    def _stop_keeping(self) -> None:
        if self._heartbeats is not None:
            self._heartbeats.cancel()
        self._heartbeats = None

    async def _send_heartbeats(self, lease_id: str) -> None:
        async with self._broker() as broker:
            while True:
                pause = self.gpu_lease_ttl_s / 3
                try:
                    await broker.heartbeat(lease_id, self.gpu_lease_ttl_s)
                except (Denied, NotFound) as error:
                    self.log.warning("%s lost lease %s: %s", self._log_name, lease_id, error.detail)
                    if self._lease_id == lease_id:
                        self._lease_id = ""
                    return
                except Unavailable as error:
                    self.log.warning("Lease %s could not be kept: %s", lease_id, error.detail)
                    pause = min(_RETRY_S, pause)
                await asyncio.sleep(pause)

    def get_env(self) -> dict[str, str]:
        """The server's environment: with the slice, or with none at all."""
        env: dict[str, str] = super().get_env()
        if self._credentials is None:
            return without_slice(env)
        env = self.gpu_environment(self._credentials, env)
        env["JUPYTER_DEFAULT_PROVISIONER_NAME"] = PROVISIONER
        return env

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """What happens to the lease, then what the spawner itself reports."""
        shown = 0
        while True:
            waiting = self._spawn_pending and not self._settled
            for step in self._steps[shown:]:
                shown += 1
                yield {"progress": min(10 * shown, 40), "message": step}
            if not waiting:
                break
            await asyncio.sleep(0.1)
        async for event in super().progress():
            yield event

    # ---- across restarts of the hub ----------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """What the hub stores; the key of the lease is not in it."""
        state: dict[str, Any] = super().get_state()
        if self._lease_id:
            state["gpu_lease"] = self._lease_id
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes the lease up again; poll() keeps or ends it. clear_state() leaves it alone: the
        hub and spawners call that at moments when the lease has yet to be released."""
        super().load_state(state)
        self._lease_id = state.get("gpu_lease", "")


class CarrelLocalSpawner(GPULeaseMixin, SimpleLocalProcessSpawner):  # type: ignore[misc]
    """Servers as processes of the hub's own account, with private homes. For demos and trials:
    nothing keeps one person's processes from another's.
    """

    async def start(self) -> Any:
        """Starts the server on a port that no other start of this hub was given."""
        self.port: int = self.port or free_ports(1)[0]
        return await super().start()

    def make_preexec_fn(self, name: str) -> Any:
        """Makes the home on first use, for this account only."""
        home = self.home_dir

        def enter_home() -> None:
            os.makedirs(home, 0o700, exist_ok=True)
            os.chdir(home)

        return enter_home
