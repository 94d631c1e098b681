#include "wire/openssl.hpp"

#include <dlfcn.h>

#include <type_traits>

namespace carrel::wire {

namespace {

// Its own symbols first, and nobody else's business. Sanitizers do not support the former.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kFlags = RTLD_NOW | RTLD_LOCAL;
#else
constexpr int kFlags = RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND;
#endif

struct Loaded {
    OpenSsl functions{};
    std::string error;
};

Loaded find_all() {
    Loaded loaded;
    void* const library = dlopen("libssl.so.3", kFlags);
    if (!library) {
        loaded.error = "TLS needs OpenSSL 3 (libssl.so.3), which is not installed";
        return loaded;
    }
    const auto find = [&](const char* name, auto& function) {
        void* const symbol = dlsym(library, name);  // libcrypto's too: libssl needs it
        if (!symbol) loaded.error = std::string("libssl.so.3 lacks ") + name;
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
    };
#define CARREL_FIND(name) find(#name, loaded.functions.name)
    CARREL_FIND(TLS_method);
    CARREL_FIND(SSL_CTX_new);
    CARREL_FIND(SSL_CTX_free);
    CARREL_FIND(SSL_CTX_ctrl);
    CARREL_FIND(SSL_CTX_set_ciphersuites);
    CARREL_FIND(SSL_CTX_set_num_tickets);
    CARREL_FIND(SSL_CTX_set_psk_use_session_callback);
    CARREL_FIND(SSL_CTX_set_psk_find_session_callback);
    CARREL_FIND(SSL_new);
    CARREL_FIND(SSL_free);
    CARREL_FIND(SSL_set_fd);
    CARREL_FIND(SSL_connect);
    CARREL_FIND(SSL_accept);
    CARREL_FIND(SSL_read);
    CARREL_FIND(SSL_write);
    CARREL_FIND(SSL_pending);
    CARREL_FIND(SSL_shutdown);
    CARREL_FIND(SSL_get_error);
    CARREL_FIND(SSL_session_reused);
    CARREL_FIND(SSL_CIPHER_find);
    CARREL_FIND(SSL_SESSION_new);
    CARREL_FIND(SSL_SESSION_free);
    CARREL_FIND(SSL_SESSION_set1_master_key);
    CARREL_FIND(SSL_SESSION_set_cipher);
    CARREL_FIND(SSL_SESSION_set_protocol_version);
    CARREL_FIND(ERR_clear_error);
#undef CARREL_FIND
    return loaded;
}

}  // namespace

const OpenSsl* OpenSsl::load(std::string* why) {
    static const Loaded loaded = find_all();
    if (loaded.error.empty()) return &loaded.functions;
    *why = loaded.error;
    return nullptr;
}

}  // namespace carrel::wire
