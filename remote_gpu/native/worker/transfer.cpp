#include "worker/transfer.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace carrel::worker {

HostBuffer::HostBuffer(const DriverTable& driver, size_t size) : driver_(&driver), size_(size) {
    void* data = nullptr;
    pinned_ = invoke(driver.cuMemHostAlloc, &data, size, 0u) == CUDA_SUCCESS;
    if (!pinned_ && !(data = std::malloc(size))) throw std::bad_alloc();
    data_ = static_cast<std::byte*>(data);
}

HostBuffer& HostBuffer::operator=(HostBuffer&& other) noexcept {
    std::swap(driver_, other.driver_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(pinned_, other.pinned_);
    return *this;
}

HostBuffer::~HostBuffer() {
    if (pinned_) {
        invoke(driver_->cuMemFreeHost, static_cast<void*>(data_));
    } else {
        std::free(data_);
    }
}

Transfer::~Transfer() {
    clear();
}

void Transfer::clear() {
    for (Chunk& chunk : ring_) forget_users(chunk);
    ring_.clear();
    while (!held_.empty()) release_oldest_held();
    const std::lock_guard lock(mutex_);
    spare_.clear();
}

// Waits for the copies that read the chunk.
void Transfer::forget_users(Chunk& chunk) {
    for (const auto& [stream, event] : chunk.users) {
        invoke(driver_.cuEventSynchronize, event);
        invoke(driver_.cuEventDestroy_v2, event);
    }
    chunk.users.clear();
    chunk.used = 0;
}

void Transfer::hold(HostBuffer buffer, CUstream stream) {
    while (!held_.empty() &&
           (invoke(driver_.cuEventQuery, held_.front().done) != CUDA_ERROR_NOT_READY ||
            (held_bytes_ > kMaxHeld && !host_calls_.outstanding()))) {
        release_oldest_held();
    }
    CUevent done = nullptr;
    constexpr unsigned int kDisableTiming = 2;
    CUresult made = invoke(driver_.cuEventCreate, &done, kDisableTiming);
    if (made == CUDA_SUCCESS) made = invoke(driver_.cuEventRecord, done, stream);
    if (made != CUDA_SUCCESS) {
        invoke(driver_.cuStreamSynchronize, stream);
        return;
    }
    held_bytes_ += buffer.size();
    held_.push_back({std::move(buffer), done});
}

void Transfer::release_oldest_held() {
    invoke(driver_.cuEventSynchronize, held_.front().done);
    invoke(driver_.cuEventDestroy_v2, held_.front().done);
    held_bytes_ -= held_.front().buffer.size();
    held_.pop_front();
}

Transfer::Chunk& Transfer::stage(size_t size) {
    if (!ring_.empty() && kChunk - ring_.front().used >= size) return ring_.front();
    if (!ring_.empty()) {
        ring_.push_back(std::move(ring_.front()));
        ring_.pop_front();
    }
    const auto free_now = [&](const Chunk& chunk) {
        return std::all_of(chunk.users.begin(), chunk.users.end(), [&](const auto& user) {
            return invoke(driver_.cuEventQuery, user.second) != CUDA_ERROR_NOT_READY;
        });
    };
    const bool grow =
        ring_.size() < kChunks || (host_calls_.outstanding() && ring_.size() < kMaxChunks);
    if (ring_.empty() || (grow && !free_now(ring_.front()))) {
        ring_.push_front(make_chunk());
        return ring_.front();
    }
    forget_users(ring_.front());
    return ring_.front();
}

// Notes that the stream reads the chunk until the work queued so far is done.
CUresult Transfer::use(Chunk& chunk, CUstream stream) {
    auto user = std::find_if(chunk.users.begin(), chunk.users.end(),
                             [&](const auto& u) { return u.first == stream; });
    if (user == chunk.users.end()) {
        CUevent event = nullptr;
        constexpr unsigned int kDisableTiming = 2;
        const CUresult made = invoke(driver_.cuEventCreate, &event, kDisableTiming);
        if (made != CUDA_SUCCESS) return made;
        chunk.users.emplace_back(stream, event);
        user = std::prev(chunk.users.end());
    }
    return invoke(driver_.cuEventRecord, user->second, stream);
}

CUresult Transfer::copy_in(CUdeviceptr to, std::span<const std::byte> data, CUstream stream,
                           bool quiet) {
    if (data.empty()) return CUDA_SUCCESS;
    // Nothing to wait for: copied on the spot, complete for every stream.
    if (quiet) {
        return invoke(driver_.cuMemcpyHtoD_v2, to, static_cast<const void*>(data.data()),
                      data.size());
    }
    CUresult result = CUDA_SUCCESS;
    while (!data.empty() && result == CUDA_SUCCESS) {
        const size_t part = std::min(data.size(), kChunk);
        Chunk& chunk = stage(part);
        std::byte* at = chunk.buffer.data() + chunk.used;
        std::memcpy(at, data.data(), part);
        chunk.used += (part + 63) / 64 * 64;
        result =
            invoke(driver_.cuMemcpyHtoDAsync_v2, to, static_cast<const void*>(at), part, stream);
        if (result == CUDA_SUCCESS) result = use(chunk, stream);
        to += part;
        data = data.subspan(part);
    }
    return result;
}

bool Transfer::copy_in_bulk(wire::Channel& from, CUdeviceptr to, uint64_t bytes, CUstream stream,
                            CUresult* result) {
    *result = CUDA_SUCCESS;
    while (bytes) {
        const size_t part = std::min<uint64_t>(bytes, kChunk);
        Chunk& chunk = stage(part);
        std::byte* at = chunk.buffer.data() + chunk.used;
        if (!from.receive(at, part)) return false;
        if (*result == CUDA_SUCCESS) {
            chunk.used += (part + 63) / 64 * 64;
            *result = invoke(driver_.cuMemcpyHtoDAsync_v2, to, static_cast<const void*>(at), part,
                             stream);
            if (*result == CUDA_SUCCESS) *result = use(chunk, stream);
        }
        to += part;
        bytes -= part;
    }
    return true;
}

std::unique_ptr<Transfer::Chunk> Transfer::borrow() {
    {
        const std::lock_guard lock(mutex_);
        if (!spare_.empty()) {
            auto chunk = std::move(spare_.back());
            spare_.pop_back();
            return chunk;
        }
    }
    return std::make_unique<Chunk>(make_chunk());
}

void Transfer::give_back(std::unique_ptr<Chunk> chunk) {
    const std::lock_guard lock(mutex_);
    if (spare_.size() < kChunks) spare_.push_back(std::move(chunk));
}

void Transfer::copy_out(Outbox& outbox, uint32_t reply, CUdeviceptr from, uint64_t bytes,
                        CUstream stream) {
    std::unique_ptr<Chunk> ready = borrow();
    uint64_t part = std::min<uint64_t>(bytes, kChunk);
    const auto fetch = [&](Chunk& chunk, CUdeviceptr at, uint64_t size) {
        return invoke(driver_.cuMemcpyDtoHAsync_v2, static_cast<void*>(chunk.buffer.data()), at,
                      size_t{size}, stream);
    };
    const auto settle = [&](CUresult queued) {
        const CUresult done = invoke(driver_.cuStreamSynchronize, stream);
        return queued != CUDA_SUCCESS ? queued : done;
    };
    CUresult result = settle(fetch(*ready, from, part));
    std::unique_ptr<Chunk> next = bytes > part ? borrow() : nullptr;
    // While one part is sent, the next is copied. Nothing is locked while the stream is waited for:
    // it may itself wait for a host function, which the client must hear of.
    for (uint64_t done = 0; result == CUDA_SUCCESS;) {
        const uint64_t after = done + part;
        const uint64_t next_part = std::min<uint64_t>(bytes - after, kChunk);
        CUresult queued = CUDA_SUCCESS;
        if (next_part) queued = fetch(*next, from + after, next_part);
        outbox.send(wire::Frame::data, reply, {ready->buffer.data(), part});
        if (!next_part) break;
        result = settle(queued);
        std::swap(ready, next);
        done = after;
        part = next_part;
    }
    wire::Writer body;
    body.put(static_cast<int32_t>(result));
    outbox.send(wire::Frame::reply, reply, {body.data(), body.size()});
    give_back(std::move(ready));
    if (next) give_back(std::move(next));
}

}  // namespace carrel::worker
