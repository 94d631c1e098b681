#include "worker/mirrors.hpp"

#include <algorithm>

namespace carrel::worker {

namespace {

constexpr size_t kStaging = size_t{4} << 20;
constexpr uint64_t kPage = wire::kMirrorPage;
static_assert(kStaging % kPage == 0);

size_t pages_of(uint64_t bytes) {
    return (bytes + kPage - 1) / kPage;
}

}  // namespace

CUresult Mirrors::stream(CUstream* out) {
    CUcontext context = nullptr;
    if (const CUresult bad = invoke(driver_.cuCtxGetCurrent, &context)) return bad;
    CUstream& known = streams_[context];
    if (!known) {
        constexpr unsigned int kNonBlocking = 1;
        if (const CUresult bad = invoke(driver_.cuStreamCreate, &known, kNonBlocking)) return bad;
    }
    *out = known;
    return CUDA_SUCCESS;
}

void Mirrors::stage() {
    if (!staging_) staging_.emplace(driver_, kStaging);
}

CUresult Mirrors::open(wire::Reader& in, uint64_t most) {
    const auto address = in.get<uint64_t>();
    const auto bytes = in.get<uint64_t>();
    const bool zero = in.get<uint8_t>() != 0;
    const std::lock_guard lock(mutex_);
    if (!bytes || bytes > most || total_ > most - bytes || mirrors_.contains(address))
        return CUDA_ERROR_INVALID_VALUE;
    std::optional<Digest> known;
    if (zero) {
        CUstream own = nullptr;
        CUresult result = stream(&own);
        if (result == CUDA_SUCCESS)
            result = invoke(driver_.cuMemsetD8Async, CUdeviceptr{address},
                            static_cast<unsigned char>(0), size_t{bytes}, own);
        if (result == CUDA_SUCCESS) result = invoke(driver_.cuStreamSynchronize, own);
        if (result != CUDA_SUCCESS) return result;
        const std::vector<std::byte> zeros(kPage);
        known = digest(zeros.data(), zeros.size());
    }
    Mirror mirror{bytes, {}};
    mirror.pages.resize(pages_of(bytes), known);
    if (bytes % kPage) mirror.pages.back().reset();
    mirrors_.emplace(address, std::move(mirror));
    total_ += bytes;
    return CUDA_SUCCESS;
}

void Mirrors::close(uint64_t address) {
    const std::lock_guard lock(mutex_);
    const auto found = mirrors_.find(address);
    if (found == mirrors_.end()) return;
    total_ -= found->second.bytes;
    mirrors_.erase(found);
}

// `data` is what the client has sent for the run and holds there now.
void Mirrors::note_written(const wire::MirrorRun& run, const std::byte* data) {
    auto found = mirrors_.upper_bound(run.address);
    if (found == mirrors_.begin()) return;
    --found;
    Mirror& mirror = found->second;
    const uint64_t offset = run.address - found->first;
    if (offset >= mirror.bytes || run.bytes > mirror.bytes - offset) return;
    for (uint64_t at = offset; at < offset + run.bytes;) {
        const uint64_t page = at / kPage;
        const uint64_t end = std::min({(page + 1) * kPage, mirror.bytes, offset + run.bytes});
        const bool complete = at % kPage == 0 && end == std::min((page + 1) * kPage, mirror.bytes);
        if (complete) {
            mirror.pages[page] = digest(data + (at - offset), end - at);
        } else {
            mirror.pages[page].reset();
        }
        at = end;
    }
}

CUresult Mirrors::write(wire::Reader& in, wire::Channel& channel, uint64_t bulk) {
    const auto count = in.get<uint32_t>();
    if (bulk && count != 1) throw wire::Malformed("bulk data for several places");
    const auto list = in.raw(size_t{count} * sizeof(wire::MirrorRun));
    std::vector<wire::MirrorRun> runs(count);
    if (count) std::memcpy(runs.data(), list.data(), list.size());
    const std::lock_guard lock(mutex_);
    CUstream own = nullptr;
    CUresult result = stream(&own);
    const auto put = [&](uint64_t to, const std::byte* data, uint64_t bytes) {
        if (result == CUDA_SUCCESS)
            result = invoke(driver_.cuMemcpyHtoDAsync_v2, CUdeviceptr{to},
                            static_cast<const void*>(data), size_t{bytes}, own);
    };
    const auto finish = [&] {
        const CUresult done = own ? invoke(driver_.cuStreamSynchronize, own) : CUDA_SUCCESS;
        if (result == CUDA_SUCCESS) result = done;
    };
    if (!bulk) {
        for (const wire::MirrorRun& run : runs) {
            const auto data = in.raw(run.bytes);
            put(run.address, data.data(), run.bytes);
            note_written(run, data.data());
        }
        finish();
        return result;
    }
    if (runs[0].bytes != bulk) throw wire::Malformed("data of another size than it says");
    stage();
    for (uint64_t done = 0; done < bulk;) {
        const uint64_t part = std::min<uint64_t>(bulk - done, kStaging);
        if (!channel.receive(staging_->data(), part))
            throw wire::Malformed("a copy ends too early");
        const wire::MirrorRun run{runs[0].address + done, part};
        put(run.address, staging_->data(), part);
        note_written(run, staging_->data());
        finish();
        done += part;
    }
    return result;
}

// Reads the parts into the staging buffer, one after the other, and sends the pages that changed.
CUresult Mirrors::scan_batch(const std::vector<wire::MirrorRun>& batch, CUstream stream,
                             Outbox& outbox, uint32_t reply,
                             std::vector<wire::MirrorRun>& changed) {
    CUresult result = CUDA_SUCCESS;
    size_t used = 0;
    for (const wire::MirrorRun& part : batch) {
        if (result == CUDA_SUCCESS)
            result =
                invoke(driver_.cuMemcpyDtoHAsync_v2, static_cast<void*>(staging_->data() + used),
                       CUdeviceptr{part.address}, size_t{part.bytes}, stream);
        used += part.bytes;
    }
    const CUresult done = invoke(driver_.cuStreamSynchronize, stream);
    if (result == CUDA_SUCCESS) result = done;
    if (result != CUDA_SUCCESS) return result;
    size_t kept = 0;  // changed pages move to the front of the buffer
    std::byte* at = staging_->data();
    for (const wire::MirrorRun& part : batch) {
        const auto found = std::prev(mirrors_.upper_bound(part.address));
        for (uint64_t done_bytes = 0; done_bytes < part.bytes; done_bytes += kPage) {
            const size_t size = std::min(kPage, part.bytes - done_bytes);
            const uint64_t address = part.address + done_bytes;
            std::optional<Digest>& known = found->second.pages[(address - found->first) / kPage];
            const Digest now = digest(at, size);
            if (!known || *known != now) {
                known = now;
                std::memmove(staging_->data() + kept, at, size);
                kept += size;
                if (!changed.empty() && changed.back().address + changed.back().bytes == address) {
                    changed.back().bytes += size;
                } else {
                    changed.push_back({address, size});
                }
            }
            at += size;
        }
    }
    if (kept) outbox.send(wire::Frame::data, reply, {staging_->data(), kept});
    return CUDA_SUCCESS;
}

CUresult Mirrors::scan(Outbox& outbox, uint32_t reply, std::vector<wire::MirrorRun>& changed) {
    CUstream own = nullptr;
    if (const CUresult bad = stream(&own)) return bad;
    stage();
    std::vector<wire::MirrorRun> batch;
    size_t used = 0;
    const auto flush = [&] {
        const CUresult result =
            batch.empty() ? CUDA_SUCCESS : scan_batch(batch, own, outbox, reply, changed);
        batch.clear();
        used = 0;
        return result;
    };
    for (const auto& [address, mirror] : mirrors_) {
        for (uint64_t done = 0; done < mirror.bytes;) {
            // Whole pages, so that none is split between two batches.
            const uint64_t room = (kStaging - used) / kPage * kPage;
            if (!room) {
                if (const CUresult bad = flush()) return bad;
                continue;
            }
            const uint64_t part = std::min(mirror.bytes - done, room);
            batch.push_back({address + done, part});
            used += part;
            done += part;
        }
    }
    return flush();
}

void Mirrors::collect(Reply& reply) {
    const std::lock_guard lock(mutex_);
    std::vector<wire::MirrorRun> changed;
    reply.result(scan(reply.outbox(), reply.number(), changed));
    reply.writer().put(static_cast<uint32_t>(changed.size()));
    reply.writer().raw(changed.data(), changed.size() * sizeof(wire::MirrorRun));
}

void Mirrors::forget(CUcontext context) {
    const std::lock_guard lock(mutex_);
    const auto found = streams_.find(context);
    if (found == streams_.end()) return;
    if (found->second) invoke(driver_.cuStreamDestroy_v2, found->second);
    streams_.erase(found);
    staging_.reset();  // it may be that context's
}

void Mirrors::clear() {
    const std::lock_guard lock(mutex_);
    mirrors_.clear();
    total_ = 0;
    streams_.clear();  // they go with their contexts
    staging_.reset();
}

}  // namespace carrel::worker
