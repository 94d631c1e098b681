// How the functions of the driver API reach the worker. The generated stubs and the hand-written
// functions use nothing else of the session.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstring>
#include <span>

#include "client/capture.hpp"
#include "client/context.hpp"
#include "client/handles.hpp"
#include "client/mirror.hpp"
#include "client/session.hpp"
#include "client/trace.hpp"
#include "client/work.hpp"
#include "cuda_abi.hpp"
#include "cuda_calls.hpp"
#include "wire/reader.hpp"
#include "wire/writer.hpp"

namespace carrel::client {

// The name that travels for a handle. Throws BadHandle.
template <class H>
uint64_t name_of(H handle) {
    if (!handle) return 0;
    const uint32_t name = Handles::name(handle);
    const Kind kind = handles().kind(name);
    if (kind != kKindOf<H>) throw BadHandle{};
    return name;
}

template <>
inline uint64_t name_of(CUstream stream) {
    const auto value = reinterpret_cast<uint64_t>(stream);
    uint64_t name = value;
    if (value == wire::kPerThreadStream) work.streams.store(true, std::memory_order_relaxed);
    if (value > wire::kPerThreadStream) {
        name = Handles::name(stream);
        if (handles().kind(static_cast<uint32_t>(name)) != Kind::stream) throw BadHandle{};
    }
    note_work();
    return name;
}

// A CUkernel serves as a CUfunction.
template <>
inline uint64_t name_of(CUfunction function) {
    const uint32_t name = Handles::name(function);
    const Kind kind = handles().kind(name);
    if (kind != Kind::function && kind != Kind::kernel) throw BadHandle{};
    return name;
}

template <>
inline uint64_t name_of(CUcontext context) {
    if (!context) return current_context_name();
    const Context* known = find_context(context);
    if (!known) throw BadHandle{};
    return known->wire;
}

template <class H>
H mint(void* object = nullptr) {
    if constexpr (kKindOf<H> == Kind::stream) work.streams.store(true, std::memory_order_relaxed);
    const uint32_t name = handles().create(kKindOf<H>, object, current_context_name());
    return name ? Handles::handle<H>(name) : nullptr;
}

template <class H>
void retire(H handle) {
    handles().erase(Handles::name(handle));
}

inline CUstream per_thread(CUstream stream) {
    return stream ? stream : reinterpret_cast<CUstream>(wire::kPerThreadStream);
}

// Whether a call works without a current context.
constexpr bool needs_context(Call call) {
    switch (call) {
        case Call::cuLibraryLoadData:
        case Call::cuLibraryUnload:
        case Call::cuLibraryGetKernel:
        case Call::cuLibraryGetKernelCount:
        case Call::cuLibraryEnumerateKernels:
        case Call::cuKernelGetAttribute:
        case Call::cuKernelSetAttribute:
        case Call::cuKernelSetCacheConfig:
        case Call::cuCtxCreate_v4:
        case Call::cuCtxDestroy_v2:
        case Call::cuCtxSynchronize_v2:
            return false;
        default:
            return true;
    }
}

// The context whose name travels with a call of this thread; 0 when it needs one and has none.
inline uint32_t context_for(Call call) {
    if (const uint32_t name = current_context_name()) return name;
    return needs_context(call) ? 0 : wire::kPrimaryContext;
}

// What a call answers that came without a context.
inline CUresult no_context() {
    const CUresult bad = session().status();
    return bad ? bad : CUDA_ERROR_INVALID_CONTEXT;
}

// After a call that is complete for the host when it returns: waits, if it has written to memory
// that the host sees. Its first argument is where it writes.
CUresult complete_for_host(const wire::Writer& arguments);

// Pipelined: encode(wire::Writer&) appends the arguments; nothing is awaited.
template <class E>
CUresult post(Call call, E&& encode) {
    trace(call, false);
    const uint32_t context = context_for(call);
    if (!context) return no_context();
    if (!touches_memory(call) || !mirrors_exist())
        return session().post(static_cast<uint16_t>(call), context, encode);
    {
        const MirrorWork mirrored;
        if (mirrored.result()) return mirrored.result();
        if (const CUresult bad = session().post(static_cast<uint16_t>(call), context, encode))
            return bad;
    }
    if (!completes_for_host(call) || captures_exist()) return CUDA_SUCCESS;
    wire::Writer arguments;
    encode(arguments);
    return complete_for_host(arguments);
}

template <class E>
CUresult post(wire::Internal call, E&& encode) {
    const uint32_t context = current_context_name();
    return session().post(static_cast<uint16_t>(call), context ? context : wire::kPrimaryContext,
                          encode);
}

// Waits. answer(CUresult, wire::Reader&) sees the outputs also of a call that failed.
template <class E, class A>
CUresult ask(uint16_t call, uint32_t context, E&& encode, A&& answer,
             bool even_after_error = false) {
    Pending pending;
    if (const CUresult bad =
            session().transact(call, context, encode, &pending, {}, even_after_error)) {
        return bad;
    }
    try {
        wire::Reader in(pending.body());
        const auto result = static_cast<CUresult>(in.get<int32_t>());
        answer(result, in);
        return session().settle(result);
    } catch (const wire::Malformed& error) {
        session().lose(CUDA_ERROR_DEVICE_UNAVAILABLE, error.what());
        return session().status();
    }
}

template <class E, class A>
CUresult ask(Call call, E&& encode, A&& answer) {
    trace(call, true);
    const uint32_t context = context_for(call);
    if (!context) return no_context();
    if (captures_exist() && completes_work(call)) {
        if (const CUresult bad = refuse_unsafe_call()) return bad;
    }
    if (!completes_work(call) || !mirrors_exist())
        return ask(static_cast<uint16_t>(call), context, encode, answer);
    const MirrorWait mirrored;
    const CUresult result = ask(static_cast<uint16_t>(call), context, encode, answer);
    return result ? result : mirrored.collect(completes_all(call));
}

template <class E, class A>
CUresult ask(wire::Internal call, E&& encode, A&& answer) {
    const uint32_t context = current_context_name();
    return ask(static_cast<uint16_t>(call), context ? context : wire::kPrimaryContext, encode,
               answer);
}

// Waits; decode(wire::Reader&) sees the outputs of a call that succeeded.
template <class E, class D>
CUresult call(Call which, E&& encode, D&& decode) {
    return ask(which, encode, [&](CUresult result, wire::Reader& in) {
        if (result == CUDA_SUCCESS) decode(in);
    });
}

// Logs the function's name once.
CUresult unsupported(Call call);

}  // namespace carrel::client
