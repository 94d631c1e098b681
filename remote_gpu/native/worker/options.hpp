// The worker's command line. No secret is ever on it.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace carrel::worker {

struct Options {
    bool describe = false;
    int client_fd = -1;
    std::string transport = "socket";  // what the client socket carries: see wire/connection.hpp
    int tls_key_fd = -1;               // a pipe with the key of TLS, 32 bytes: TLS follows
    double grace_s = 30;               // how long a session outlives its connection
    int control_fd = -1;
    int ledger_fd = -1;
    unsigned ledger_slot = 0;
    std::string driver = "libcuda.so.1";
    int device = 0;
    uint64_t vram_bytes = 0;
    double tflops = 0;
    // Folders where CUDA's libraries are looked for first: those of the environment's
    // CARREL_LIBRARY_PATH (with colons), then each --library-path.
    std::vector<std::string> library_path;
    std::string image_store;  // a folder for code that has been loaded; empty: none
    std::string session;
    std::string lease;

    // Throws std::invalid_argument with a message for the person who typed it.
    static Options parse(int argc, char** argv);
};

}  // namespace carrel::worker
