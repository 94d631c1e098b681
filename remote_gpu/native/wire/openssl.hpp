// The few functions of OpenSSL 3 that TLS needs, found in libssl.so.3 when first asked for: client
// libraries must load where there is none, and must not clash with a program's own. Declared by the
// documentation (man7 ssl); building needs no header of OpenSSL.
#pragma once
#include <cstddef>
#include <string>

namespace carrel::wire {

struct OpenSsl {
    using Method = const void*;
    // int (SSL*, const EVP_MD*, const unsigned char** id, size_t* idlen, SSL_SESSION**)
    using UsePsk = int (*)(void*, const void*, const unsigned char**, size_t*, void**);
    // int (SSL*, const unsigned char* identity, size_t identity_len, SSL_SESSION**)
    using FindPsk = int (*)(void*, const unsigned char*, size_t, void**);

    Method (*TLS_method)();
    void* (*SSL_CTX_new)(Method);
    void (*SSL_CTX_free)(void*);
    long (*SSL_CTX_ctrl)(void*, int, long, void*);
    int (*SSL_CTX_set_ciphersuites)(void*, const char*);
    int (*SSL_CTX_set_num_tickets)(void*, size_t);
    void (*SSL_CTX_set_psk_use_session_callback)(void*, UsePsk);
    void (*SSL_CTX_set_psk_find_session_callback)(void*, FindPsk);
    void* (*SSL_new)(void*);
    void (*SSL_free)(void*);
    int (*SSL_set_fd)(void*, int);
    int (*SSL_connect)(void*);
    int (*SSL_accept)(void*);
    int (*SSL_read)(void*, void*, int);
    int (*SSL_write)(void*, const void*, int);
    int (*SSL_pending)(const void*);
    int (*SSL_shutdown)(void*);
    int (*SSL_get_error)(const void*, int);
    int (*SSL_session_reused)(const void*);
    const void* (*SSL_CIPHER_find)(void*, const unsigned char*);
    void* (*SSL_SESSION_new)();
    void (*SSL_SESSION_free)(void*);
    int (*SSL_SESSION_set1_master_key)(void*, const unsigned char*, size_t);
    int (*SSL_SESSION_set_cipher)(void*, const void*);
    int (*SSL_SESSION_set_protocol_version)(void*, int);
    void (*ERR_clear_error)();

    // Null when there is no OpenSSL 3; then `*why` says what was looked for.
    static const OpenSsl* load(std::string* why);
};

}  // namespace carrel::wire
