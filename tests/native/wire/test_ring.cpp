// Shared memory between two ends on one host: order and content across the ring's edge, sleeping
// ends that are woken, an end that dies, lies, or names memory that is not there.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <random>
#include <system_error>
#include <thread>

#include "check.hpp"
#include "wire/channel.hpp"
#include "wire/local.hpp"

using namespace carrel;
using namespace carrel::wire;
using namespace std::chrono_literals;

namespace {

struct Sockets {
    int node = -1, client = -1;
    Sockets() {
        int ends[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0) {
            node = ends[0];
            client = ends[1];
        }
    }
};

// Both ends in this process.
struct Pair {
    Channel node, client;
    Pair() {
        const Sockets sockets;
        node = Channel(Local::offer(sockets.node));
        client = Channel(Local::accept(sockets.client, 5s));
    }
};

// Byte n of a stream that no shift, loss or repetition of bytes leaves the same.
std::byte pattern(uint64_t n) {
    return static_cast<std::byte>((n * 2654435761u) >> 13);
}

bool send_pattern(Channel& to, uint64_t total, unsigned seed, size_t largest) {
    std::mt19937 random(seed);
    std::vector<std::byte> data(largest);
    for (uint64_t done = 0; done < total;) {
        const auto n = std::min<uint64_t>(total - done, 1 + random() % largest);
        for (size_t i = 0; i < n; ++i) data[i] = pattern(done + i);
        const iovec parts[2] = {{data.data(), n / 3}, {data.data() + n / 3, n - n / 3}};
        if (to.send(parts) != 0) return false;
        done += n;
    }
    return true;
}

bool receive_pattern(Channel& from, uint64_t total, unsigned seed, size_t largest) {
    std::mt19937 random(seed);
    std::vector<std::byte> data(largest);
    for (uint64_t done = 0; done < total;) {
        const auto n = std::min<uint64_t>(total - done, 1 + random() % largest);
        if (random() % 4 == 0) {
            if (from.buffered().empty() && !from.fill(1)) return false;
            const auto some = std::min<uint64_t>(from.buffered().size(), total - done);
            for (size_t i = 0; i < some; ++i) {
                if (from.buffered()[i] != pattern(done + i)) return false;
            }
            from.consume(some);
            done += some;
        } else {
            if (!from.receive(data.data(), n)) return false;
            for (size_t i = 0; i < n; ++i) {
                if (data[i] != pattern(done + i)) return false;
            }
            done += n;
        }
    }
    return true;
}

}  // namespace

TEST(both_directions_at_once_across_the_edge) {
    Pair pair;
    constexpr uint64_t kTotal = 24u << 20;
    bool sent[2] = {}, received[2] = {};
    std::thread threads[] = {
        std::thread([&] { sent[0] = send_pattern(pair.client, kTotal, 1, 300'000); }),
        std::thread([&] { sent[1] = send_pattern(pair.node, kTotal, 2, 70'000); }),
        std::thread([&] { received[0] = receive_pattern(pair.node, kTotal, 3, 90'000); }),
        std::thread([&] { received[1] = receive_pattern(pair.client, kTotal, 4, 3'000'000); }),
    };
    for (std::thread& thread : threads) thread.join();
    CHECK(sent[0] && sent[1] && received[0] && received[1]);
}

TEST(two_processes) {
    const Sockets sockets;
    const pid_t child = fork();
    if (child == 0) {
        close(sockets.node);
        bool right = false;
        {
            Channel client(Local::accept(sockets.client, 5s));
            char wait;
            right = receive_pattern(client, 8u << 20, 5, 200'000) &&
                    send_pattern(client, 8u << 20, 6, 200'000) && !client.receive(&wait, 1) &&
                    client.error() == 0;
        }
        _exit(right ? 0 : 1);
    }
    close(sockets.client);
    Channel node(Local::offer(sockets.node));
    CHECK(send_pattern(node, 8u << 20, 7, 200'000));
    CHECK(receive_pattern(node, 8u << 20, 8, 200'000));
    node.close();
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_EQ(status, 0);
}

TEST(ends_that_slept_long_are_woken) {
    Pair pair;
    std::thread echo([&] {
        char c;
        while (pair.node.receive(&c, 1)) pair.node.send(&c, 1);
    });
    for (int i = 0; i < 5; ++i) {
        std::this_thread::sleep_for(20ms);  // far beyond anybody's patience
        char c = static_cast<char>('a' + i), back = 0;
        CHECK_EQ(pair.client.send(&c, 1), 0);
        CHECK(pair.client.receive(&back, 1));
        CHECK_EQ(back, c);
    }
    for (int i = 0; i < 20'000; ++i) {
        char c = static_cast<char>(i), back = 0;
        pair.client.send(&c, 1);
        REQUIRE(pair.client.receive(&back, 1) && back == c);
    }
    pair.client.close();
    echo.join();
}

TEST(what_was_sent_before_the_end_is_read) {
    Pair pair;
    CHECK_EQ(pair.node.send("bye", 3), 0);
    pair.node.transport().end_sending();
    char text[4] = "";
    CHECK(pair.client.receive(text, 3));
    CHECK_EQ(std::string(text), std::string("bye"));
    CHECK(!pair.client.receive(text, 1));
    CHECK_EQ(pair.client.error(), 0);
    // The other direction goes on.
    CHECK_EQ(pair.client.send("x", 1), 0);
    CHECK(pair.node.receive(text, 1));
}

TEST(a_killed_peer_is_noticed_by_both_directions) {
    const Sockets sockets;
    const pid_t child = fork();
    if (child == 0) {
        close(sockets.node);
        Channel client(Local::accept(sockets.client, 5s));
        client.send("last words", 10);
        pause();
    }
    close(sockets.client);
    Channel node(Local::offer(sockets.node));
    // One thread waits for room, the other for bytes.
    int error = 0;
    std::thread sender([&] {
        const std::vector<std::byte> data(4 * Ring::kBytes);
        error = node.send(data.data(), data.size());
    });
    std::this_thread::sleep_for(30ms);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    char text[11] = "";
    CHECK(node.receive(text, 10));
    CHECK_EQ(std::string(text), std::string("last words"));
    CHECK(!node.receive(text, 1));
    sender.join();
    CHECK_EQ(error, EPIPE);
    CHECK(node.transport().peer_gone());
    CHECK(node.readable());  // the end can be read
}

TEST(shutting_down_wakes_who_waits_here) {
    Pair pair;
    std::thread waiter([&] {
        char c;
        CHECK(!pair.client.receive(&c, 1));
    });
    std::this_thread::sleep_for(20ms);
    pair.client.shutdown();
    waiter.join();
    std::thread receiver([&] {
        char c;
        CHECK(!pair.node.receive(&c, 1));
    });
    receiver.join();
}

TEST(a_peer_that_lies_about_its_place_is_gone) {
    std::vector<std::byte> memory(Ring::kMapping + 64);
    auto* const aligned =
        reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
    Ring ring(aligned);
    auto* const words = reinterpret_cast<std::atomic<uint64_t>*>(aligned);
    words[0].store(uint64_t{1} << 40);  // head: more than the ring holds
    const std::byte* from = nullptr;
    size_t size = 0;
    CHECK(ring.wait_for_bytes(&from, &size) == Ring::Wait::broken);
    Ring writer(aligned);
    words[8].store(1);  // tail: ahead of what was written
    std::byte* to = nullptr;
    CHECK(writer.wait_for_room(&to, &size) == Ring::Wait::broken);
}

TEST(memory_that_is_not_there_is_an_error_not_a_signal) {
    Pair pair;
    constexpr size_t kThere = size_t{2} << 20, kAll = size_t{4} << 20;
    auto* const at = static_cast<std::byte*>(
        mmap(nullptr, kAll, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    REQUIRE(mprotect(at + kThere, kAll - kThere, PROT_NONE) == 0);
    std::vector<std::byte> sink(kAll);
    size_t sent = 0;
    std::thread reader([&] {
        while (pair.node.fill(1)) pair.node.consume(pair.node.buffered().size());
    });
    const iovec part{at, kAll};
    CHECK_EQ(pair.client.send(std::span(&part, 1), &sent), EFAULT);
    CHECK(sent <= kThere);
    CHECK_EQ(pair.client.send(at, kThere), 0);
    std::thread writer([&] { pair.node.send(sink.data(), sink.size()); });
    CHECK(!pair.client.receive(at, kAll));
    CHECK_EQ(pair.client.error(), EFAULT);
    pair.client.close();
    reader.join();
    writer.join();
    munmap(at, kAll);
}

TEST(memory_of_another_size_or_unsealed_is_refused) {
    const Sockets sockets;
    const int memory = memfd_create("small", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    REQUIRE(memory >= 0 && ftruncate(memory, 2 * Ring::kMapping) == 0);
    char word = 'R';
    iovec part{&word, 1};
    alignas(cmsghdr) char room[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = room;
    message.msg_controllen = sizeof room;
    cmsghdr* const control = CMSG_FIRSTHDR(&message);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(control), &memory, sizeof memory);
    REQUIRE(sendmsg(sockets.node, &message, 0) == 1);
    int error = 0;
    try {
        Local::accept(sockets.client, 5s);
    } catch (const std::system_error& thrown) {
        error = thrown.code().value();
    }
    CHECK_EQ(error, EPROTO);
    close(memory);
    close(sockets.node);
}

CARREL_TEST_MAIN
