// User objects: the program's, kept alive by graphs. They stay here; a graph in the worker holds a
// ticket for each of its references, and the worker says when no graph has it any more.
#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "client/forward.hpp"
#include "cuda_functions.hpp"

using namespace carrel;
using namespace carrel::client;

namespace {

struct UserObject {
    void* object;
    CUhostFn destroy;
    uint32_t name;
    std::atomic<uint64_t> references;
};

UserObject* find(CUuserObject handle) {
    const uint32_t name = Handles::name(handle);
    return handles().kind(name) == Kind::user_object
               ? static_cast<UserObject*>(handles().object(name))
               : nullptr;
}

void release(UserObject& object, uint64_t count) {
    if (object.references.fetch_sub(count) != count) return;
    handles().erase(object.name);
    object.destroy(object.object);  // the few bytes here stay: a stale handle must be harmless
}

// One reference that a graph holds. A graph's copies hold it too, under the same ticket.
struct Share {
    UserObject* object;
    uint32_t graph;
    uint64_t ticket;
};

std::mutex mutex;            // guards the list
std::vector<Share*> shares;  // until no graph holds them any more

void CUDAAPI release_share(void* data) {
    const std::unique_ptr<Share> share(static_cast<Share*>(data));
    {
        const std::lock_guard lock(mutex);
        std::erase(shares, share.get());
    }
    release(*share->object, 1);
}

CUresult share(CUgraph graph, UserObject* object) {
    auto made = std::make_unique<Share>(Share{object, Handles::name(graph), 0});
    made->ticket = host_ticket(&release_share, made.get(), true);
    const CUresult result = call(
        Call::cuGraphRetainUserObject,
        [&](wire::Writer& w) {
            w.put(name_of(graph));
            w.put(made->ticket);
        },
        [](wire::Reader&) {});
    if (result != CUDA_SUCCESS) {
        drop_host_ticket(made->ticket);
        return result;
    }
    const std::lock_guard lock(mutex);
    shares.push_back(made.release());
    return CUDA_SUCCESS;
}

// A reference that this graph itself was given; 0: none.
uint64_t take(CUgraph graph, const UserObject* object) {
    const std::lock_guard lock(mutex);
    for (Share* each : shares) {
        if (each->object != object || each->graph != Handles::name(graph)) continue;
        each->graph = 0;
        return each->ticket;
    }
    return 0;
}

}  // namespace

CUresult CUDAAPI cuUserObjectCreate(CUuserObject* object_out, void* ptr, CUhostFn destroy,
                                    unsigned int initialRefcount, unsigned int flags) {
    if (const CUresult bad = session().status()) return bad;
    if (!object_out || !destroy || !initialRefcount || flags != CU_USER_OBJECT_NO_DESTRUCTOR_SYNC) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    auto* object = new UserObject{ptr, destroy, 0, {initialRefcount}};
    object->name = handles().create(Kind::user_object, object);
    *object_out = Handles::handle<CUuserObject>(object->name);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuUserObjectRetain(CUuserObject object, unsigned int count) {
    UserObject* const known = find(object);
    if (!known || !count) return CUDA_ERROR_INVALID_VALUE;
    known->references += count;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuUserObjectRelease(CUuserObject object, unsigned int count) {
    UserObject* const known = find(object);
    if (!known || !count || known->references < count) return CUDA_ERROR_INVALID_VALUE;
    release(*known, count);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphRetainUserObject(CUgraph graph, CUuserObject object, unsigned int count,
                                         unsigned int flags) {
    UserObject* const known = find(object);
    if (!known || !graph || !count ||
        (flags & ~static_cast<unsigned int>(CU_GRAPH_USER_OBJECT_MOVE))) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    for (unsigned int i = 0; i < count; ++i) {
        if (!(flags & CU_GRAPH_USER_OBJECT_MOVE)) ++known->references;
        const CUresult result = share(graph, known);
        if (result == CUDA_SUCCESS) continue;
        if (!(flags & CU_GRAPH_USER_OBJECT_MOVE)) --known->references;
        return result;
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphReleaseUserObject(CUgraph graph, CUuserObject object, unsigned int count) {
    const UserObject* const known = find(object);
    if (!known || !graph || !count) return CUDA_ERROR_INVALID_VALUE;
    for (unsigned int i = 0; i < count; ++i) {
        const uint64_t ticket = take(graph, known);
        if (!ticket) return CUDA_ERROR_INVALID_VALUE;
        const CUresult result = call(
            Call::cuGraphReleaseUserObject,
            [&](wire::Writer& w) {
                w.put(name_of(graph));
                w.put(ticket);
            },
            [](wire::Reader&) {});
        if (result != CUDA_SUCCESS) return result;
    }
    return CUDA_SUCCESS;
}
