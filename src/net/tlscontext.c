/* SPDX-License-Identifier: MIT
 * Certificates, keys and rules of TLS. */
#include "net/tlscontext.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "net/tickets.h"

/* TLS 1.2: keys that are not kept, ciphers that authenticate. Those of TLS 1.3 are all fit. */
#define TLSCONTEXT_CIPHERS_12 "ECDHE+AESGCM:ECDHE+CHACHA20"

/* What is spoken inside (RFC 7301), each with its length in front; a client asks for the first only. */
static const unsigned char tlscontext_alpn[] = "\x08http/1.1\x08http/1.0";
#define TLSCONTEXT_ALPN_LEN   (sizeof tlscontext_alpn - 1)
#define TLSCONTEXT_ALPN_FIRST 9

struct tlscontext {
    _Atomic unsigned refs;
    bool server;
    size_t n;
    SSL_CTX *ctx[TLSCONTEXT_PAIRS]; /* one for each certificate; a client has one */
};

struct tlscontext *tlscontext_ref(struct tlscontext *x)
{
    atomic_fetch_add_explicit(&x->refs, 1, memory_order_relaxed);
    return x;
}

void tlscontext_unref(struct tlscontext *x)
{
    if (x == NULL || atomic_fetch_sub_explicit(&x->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < x->n; i++)
        SSL_CTX_free(x->ctx[i]);
    free(x);
}

bool tlscontext_is_server(const struct tlscontext *x)
{
    return x->server;
}

SSL *tlscontext_new_ssl(const struct tlscontext *x)
{
    return SSL_new(x->ctx[0]);
}

/* ---- making one ---- */

/* Fills `e` with what OpenSSL has to say about the file. */
static int tlscontext_refuse(struct err *e, const char *what, const char *path)
{
    unsigned long code = ERR_peek_last_error();
    const char *why = code != 0 ? ERR_reason_error_string(code) : NULL;
    if (code != 0 && ERR_SYSTEM_ERROR(code))
        why = strerror((int)ERR_GET_REASON(code));
    for (unsigned long first; (first = ERR_get_error()) != 0;)
        if (ERR_SYSTEM_ERROR(first)) /* why a file could not be opened comes before that it could not */
            why = strerror((int)ERR_GET_REASON(first));
        else if (ERR_GET_REASON(first) == ERR_R_PEM_LIB ||
                 (ERR_GET_LIB(first) == ERR_LIB_PEM && ERR_GET_REASON(first) == PEM_R_NO_START_LINE))
            why = "there is none in it that is whole and in PEM form";
    return err_set(e, "%s %s: %s", what, path, why != NULL ? why : "out of memory");
}

/* Nobody is there who could type a password. */
static int tlscontext_no_password(char *buf, int size, int writing, void *asked)
{
    (void)buf;
    (void)size;
    (void)writing;
    if (asked != NULL)
        *(bool *)asked = true;
    return -1;
}

static bool tlscontext_is_mismatch(unsigned long code)
{
    int lib = ERR_GET_LIB(code), reason = ERR_GET_REASON(code);
    return (lib == ERR_LIB_X509 &&
            (reason == X509_R_KEY_VALUES_MISMATCH || reason == X509_R_KEY_TYPE_MISMATCH)) ||
           (lib == ERR_LIB_SSL && reason == SSL_R_NO_CERTIFICATE_ASSIGNED); /* a key of another kind */
}

static int tlscontext_use_key(SSL_CTX *ctx, const char *cert, const char *key, struct err *e)
{
    bool asked = false;
    ERR_clear_error();
    SSL_CTX_set_default_passwd_cb_userdata(ctx, &asked);
    bool ok =
        SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) == 1 && SSL_CTX_check_private_key(ctx) == 1;
    SSL_CTX_set_default_passwd_cb_userdata(ctx, NULL);
    if (ok)
        return 0;
    if (!asked && !tlscontext_is_mismatch(ERR_peek_last_error()))
        return tlscontext_refuse(e, "key", key);
    ERR_clear_error();
    return asked ? err_set(e, "key %s: it is behind a password; take that off: openssl pkey -in %s -out NEW",
                           key, key)
                 : err_set(e, "key %s: it is not the key of the certificate %s", key, cert);
}

static int tlscontext_use_pair(SSL_CTX *ctx, const struct tlscontext_options *o, size_t i, struct err *e)
{
    const char *cert = o->pair[i].cert;
    ERR_clear_error();
    SSL_CTX_set_default_passwd_cb(ctx, tlscontext_no_password);
    if (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1)
        return tlscontext_refuse(e, "certificate", cert);
    if (!o->quiet && X509_cmp_current_time(X509_get0_notAfter(SSL_CTX_get0_certificate(ctx))) < 0)
        log_warn("certificate %s: it has expired, clients will refuse it: put a new one there", cert);
    return tlscontext_use_key(ctx, cert, o->pair[i].key, e);
}

/* Whose certificates are believed. */
static int tlscontext_use_ca(SSL_CTX *ctx, const char *path, struct err *e)
{
    ERR_clear_error();
    if (SSL_CTX_load_verify_file(ctx, path) != 1)
        return tlscontext_refuse(e, "ca", path);
    return 0;
}

static SSL_CTX *tlscontext_new_ctx(const SSL_METHOD *method, const struct tlscontext_options *o)
{
    SSL_CTX *ctx = SSL_CTX_new(method);
    if (ctx == NULL)
        return NULL;
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_PRIORITIZE_CHACHA |
                                 SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                              SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (SSL_CTX_set_min_proto_version(ctx, o->only_13 ? TLS1_3_VERSION : TLS1_2_VERSION) == 1 &&
        SSL_CTX_set_cipher_list(ctx, TLSCONTEXT_CIPHERS_12) == 1)
        return ctx;
    SSL_CTX_free(ctx);
    return NULL;
}

/* RFC 7301: a client that has a list without any of ours is told so. */
static int tlscontext_on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                              const unsigned char *in, unsigned in_len, void *arg)
{
    (void)ssl;
    (void)arg;
    unsigned char *chosen;
    if (SSL_select_next_proto(&chosen, out_len, tlscontext_alpn, TLSCONTEXT_ALPN_LEN, in, in_len) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

/* RFC 6066, 3: the first certificate that is good for the name; else the first of all. */
static int tlscontext_on_server_name(SSL *ssl, int *alert, void *arg)
{
    (void)alert;
    const struct tlscontext *x = arg;
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    if (name == NULL)
        return SSL_TLSEXT_ERR_NOACK;
    for (size_t i = 0; i < x->n; i++)
        if (X509_check_host(SSL_CTX_get0_certificate(x->ctx[i]), name, 0, 0, NULL) == 1) {
            SSL_set_SSL_CTX(ssl, x->ctx[i]);
            return SSL_TLSEXT_ERR_OK;
        }
    return SSL_TLSEXT_ERR_NOACK;
}

/* A session is resumed only where the same is asked of clients, by the same CA: what stands in its file may
 * have changed since, and a session that is resumed shows no certificate again. After tlscontext_ask_clients.
 */
static int tlscontext_set_session_id(SSL_CTX *ctx, const struct tlscontext_options *o)
{
    unsigned char id[SSL_MAX_SID_CTX_LENGTH] = {0}, hash[EVP_MAX_MD_SIZE];
    const STACK_OF(X509_OBJECT) *known = X509_STORE_get0_objects(SSL_CTX_get_cert_store(ctx));
    for (int i = 0; o->ca != NULL && i < sk_X509_OBJECT_num(known); i++) {
        const X509 *cert = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(known, i));
        if (cert == NULL) /* a revocation list: it has no meaning here */
            continue;
        if (X509_digest(cert, EVP_sha256(), hash, NULL) != 1)
            return -1;
        for (size_t k = 0; k < sizeof id; k++) /* in whatever order they are */
            id[k] ^= hash[k];
    }
    id[0] = (unsigned char)(id[0] ^ (o->ca != NULL ? 2 : 0) ^ (o->optional ? 1 : 0));
    return SSL_CTX_set_session_id_context(ctx, id, sizeof id) == 1 ? 0 : -1;
}

static int tlscontext_ask_clients(SSL_CTX *ctx, const struct tlscontext_options *o, struct err *e)
{
    if (o->ca == NULL)
        return 0;
    if (tlscontext_use_ca(ctx, o->ca, e) < 0)
        return -1;
    SSL_CTX_set_client_CA_list(ctx, SSL_load_client_CA_file(o->ca));
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | (o->optional ? 0 : SSL_VERIFY_FAIL_IF_NO_PEER_CERT), NULL);
    return 0;
}

static int tlscontext_add_server(struct tlscontext *x, const struct tlscontext_options *o, size_t i,
                                 struct err *e)
{
    SSL_CTX *ctx = x->ctx[x->n] = tlscontext_new_ctx(TLS_server_method(), o);
    if (ctx == NULL)
        return err_set(e, "out of memory");
    x->n++;
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF); /* sessions are in their tickets only */
    SSL_CTX_set_alpn_select_cb(ctx, tlscontext_on_alpn, NULL);
    SSL_CTX_set_tlsext_servername_callback(ctx, tlscontext_on_server_name);
    SSL_CTX_set_tlsext_servername_arg(ctx, x);
    if (tlscontext_use_pair(ctx, o, i, e) < 0 || tlscontext_ask_clients(ctx, o, e) < 0)
        return -1;
    return tlscontext_set_session_id(ctx, o) == 0 && tickets_use(ctx) == 0
               ? 0
               : err_set(e, "OpenSSL refuses to seal session tickets");
}

static struct tlscontext *tlscontext_new(bool server, struct err *e)
{
    struct tlscontext *x = calloc(1, sizeof *x);
    if (x == NULL) {
        err_set(e, "out of memory");
        return NULL;
    }
    x->refs = 1;
    x->server = server;
    return x;
}

struct tlscontext *tlscontext_create_server(const struct tlscontext_options *o, struct err *e)
{
    struct tlscontext *x = tlscontext_new(true, e);
    for (size_t i = 0; x != NULL && i < o->npairs; i++)
        if (tlscontext_add_server(x, o, i, e) < 0) {
            tlscontext_unref(x);
            x = NULL;
        }
    ERR_clear_error();
    return x;
}

static int tlscontext_add_client(struct tlscontext *x, const struct tlscontext_options *o, struct err *e)
{
    SSL_CTX *ctx = x->ctx[0] = tlscontext_new_ctx(TLS_client_method(), o);
    if (ctx == NULL)
        return err_set(e, "out of memory");
    x->n = 1;
    SSL_CTX_set_verify(ctx, o->no_verify ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
    if (SSL_CTX_set_alpn_protos(ctx, tlscontext_alpn, TLSCONTEXT_ALPN_FIRST) != 0) /* 0 is success */
        return err_set(e, "out of memory");
    if (o->npairs > 0 && tlscontext_use_pair(ctx, o, 0, e) < 0)
        return -1;
    if (o->ca != NULL)
        return tlscontext_use_ca(ctx, o->ca, e);
    if (o->no_verify)
        return 0;
    return SSL_CTX_set_default_verify_paths(ctx) == 1 ? 0 : err_set(e, "out of memory");
}

struct tlscontext *tlscontext_create_client(const struct tlscontext_options *o, struct err *e)
{
    struct tlscontext *x = tlscontext_new(false, e);
    if (x != NULL && tlscontext_add_client(x, o, e) < 0) {
        tlscontext_unref(x);
        x = NULL;
    }
    ERR_clear_error();
    return x;
}

struct tlscontext *tlscontext_usual_client(struct err *e)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct tlscontext *usual;
    pthread_mutex_lock(&lock);
    if (usual == NULL)
        usual = tlscontext_create_client(&(struct tlscontext_options){0}, e);
    struct tlscontext *x = usual != NULL ? tlscontext_ref(usual) : NULL;
    pthread_mutex_unlock(&lock);
    return x;
}

/* ---- the slot ---- */

void tlscontext_slot_init(struct tlscontext_slot *slot)
{
    pthread_mutex_init(&slot->lock, NULL);
    slot->current = NULL;
}

void tlscontext_slot_fini(struct tlscontext_slot *slot)
{
    tlscontext_unref(slot->current);
    slot->current = NULL;
    pthread_mutex_destroy(&slot->lock);
}

void tlscontext_slot_set(struct tlscontext_slot *slot, struct tlscontext *x)
{
    pthread_mutex_lock(&slot->lock);
    struct tlscontext *old = slot->current;
    slot->current = x;
    pthread_mutex_unlock(&slot->lock);
    tlscontext_unref(old);
}

struct tlscontext *tlscontext_slot_get(struct tlscontext_slot *slot)
{
    if (slot == NULL)
        return NULL;
    pthread_mutex_lock(&slot->lock);
    struct tlscontext *x = slot->current != NULL ? tlscontext_ref(slot->current) : NULL;
    pthread_mutex_unlock(&slot->lock);
    return x;
}
