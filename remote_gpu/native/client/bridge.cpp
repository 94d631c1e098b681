// What the other client libraries use of the session: see wire/bridge.h.
#include "wire/bridge.h"

#include "client/context.hpp"
#include "client/forward.hpp"
#include "client/memory.hpp"
#include "client/mirror.hpp"
#include "wire/log.hpp"

using namespace carrel;
using namespace carrel::client;

namespace {

static_assert(CARREL_HANDLE_BASE == Handles::kOffset);

void* pack(uint32_t kind, uint32_t note) {
    return reinterpret_cast<void*>(uint64_t{kind} << 32 | note);
}

uint32_t context_name() {
    const uint32_t current = current_context_name();
    return current ? current : wire::kPrimaryContext;
}

int attach() {
    return session().attach();
}

uint32_t mint_name(uint32_t kind, uint32_t note) {
    return handles().create(Kind::forwarded, pack(kind, note), context_name());
}

void retire_name(uint32_t name) {
    handles().erase(name);
}

uint32_t look(uint32_t name, uint32_t* note) {
    if (handles().kind(name) != Kind::forwarded) return 0;
    const auto packed = reinterpret_cast<uint64_t>(handles().object(name));
    *note = static_cast<uint32_t>(packed);
    return static_cast<uint32_t>(packed >> 32);
}

void set_note(uint32_t name, uint32_t note) {
    uint32_t old = 0;
    const uint32_t kind = look(name, &old);
    if (kind) handles().set_object(name, pack(kind, note));
}

int stream_name(void* stream, uint64_t* name) {
    try {
        *name = name_of(static_cast<CUstream>(stream));
        return CUDA_SUCCESS;
    } catch (const BadHandle&) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
}

int on_device(const void* address) {
    const auto pointer = reinterpret_cast<CUdeviceptr>(address);
    if (in_arena(pointer) || find_device(pointer)) return 1;
    if (!mirrors_exist()) return 0;
    const auto mirror = find_mirror(pointer);
    return mirror && mirror->kind == MirrorKind::managed;
}

int post_call(const void* payload, size_t size) {
    note_work();
    const MirrorWork mirrored;
    if (mirrored.result()) return mirrored.result();
    return session().post(static_cast<uint16_t>(wire::Internal::library), context_name(),
                          [&](wire::Writer& w) { w.raw(payload, size); });
}

int ask_call(const void* payload, size_t size,
             void (*answer)(void* user, const void* data, size_t size), void* user) {
    note_work();
    const MirrorWork mirrored;
    if (mirrored.result()) return mirrored.result();
    Pending pending;
    if (const CUresult bad = session().transact(
            static_cast<uint16_t>(wire::Internal::library), context_name(),
            [&](wire::Writer& w) { w.raw(payload, size); }, &pending)) {
        return bad;
    }
    try {
        wire::Reader in(pending.body());
        const auto result = static_cast<CUresult>(in.get<int32_t>());
        const auto rest = in.rest();
        if (result == CUDA_SUCCESS) answer(user, rest.data(), rest.size());
        return result;
    } catch (const wire::Malformed& error) {
        session().lose(CUDA_ERROR_DEVICE_UNAVAILABLE, error.what());
        return session().status();
    }
}

int failure(uint16_t library) {
    return session().take_library_failure(library);
}

void trace_call(const char* name, int waits) {
    trace_named(name, waits != 0);
}

void warn(const char* line) {
    CARREL_WARNING("%s", line);
}

constexpr carrel_bridge kBridge = {
    CARREL_BRIDGE_VERSION,
    sizeof(carrel_bridge),
    attach,
    mint_name,
    retire_name,
    look,
    set_note,
    stream_name,
    on_device,
    post_call,
    ask_call,
    failure,
    trace_call,
    warn,
};

}  // namespace

extern "C" __attribute__((visibility("default"))) const carrel_bridge* carrel_bridge_get(
    uint32_t version) {
    return version == CARREL_BRIDGE_VERSION ? &kBridge : nullptr;
}
