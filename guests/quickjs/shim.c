/* The guest: QuickJS-ng in one translation unit with what stands between it and the host.
 *
 * The host enters through the exports at the end of this file and is never waited for: what a script asks for becomes a
 * promise at once, the entry returns, and the answer comes with a later entry (`settle`). Everything that decides about the
 * end of a run is done here in C, where a script that has patched its built-ins cannot interfere; what needs JavaScript is in
 * prelude.js and ctx.js, which the host hands over in `boot`.
 *
 * One translation unit, because three things need the insides of QuickJS: whether a body closes the function around it, the
 * line of a script that asked for something, and the state of Math.random, which must not be that of the image.
 *
 * Every buffer that the host hands over was made by `alloc` and is freed here. An entry may end in a trap; the host then
 * throws the instance away. */

#include "quickjs.c"

#define EXPORT(name) __attribute__((export_name(#name)))
#define IMPORT(name) __attribute__((import_module("sandbar"), import_name(#name)))

typedef struct {
    char *bytes;
    uint32_t length;
} Text;

/* What the host does. */
IMPORT(ask) extern int32_t host_ask(const char *op, uint32_t op_length, const char *args, uint32_t args_length);
IMPORT(log) extern uint32_t host_log(uint32_t level, const char *text, uint32_t length);
IMPORT(done) extern void host_done(uint32_t how, const char *text, uint32_t length);
IMPORT(interrupt) extern uint32_t host_interrupt(void);
IMPORT(now) extern double host_now(void);
IMPORT(random) extern void host_random(uint8_t *bytes, uint32_t length);
IMPORT(digest) extern uint32_t host_digest(uint32_t algorithm, const uint8_t *bytes, uint32_t length, uint8_t *out);
IMPORT(url) extern int32_t host_url(uint32_t part, const char *url, uint32_t url_length, const char *text, uint32_t length);
IMPORT(answer) extern void host_answer(char *out);

/* How a run ended: the first argument of `done`. */
enum {
    DONE_VALUE = 0,          /* text: JSON */
    DONE_NOTHING = 1,        /* undefined */
    DONE_THROWN = 2,         /* text: a description, see describe() in prelude.js */
    DONE_UNSERIALIZABLE = 3, /* text: a description */
    DONE_INTERRUPTED = 4,    /* text: the stack at that moment */
    DONE_DEADLOCK = 5,
};

/* Why `ask` gave no number. */
enum { ASK_TOO_MANY_WAIT = -1, ASK_TOO_MANY = -2, ASK_UNKNOWN = -3, ASK_BAD_ARGS = -4 };

#define HEAD "(async function (ctx) {\n"
#define TAIL "\n})"
#define REJECTIONS_MAX 256

typedef struct {
    uint32_t seq;
    JSValue settle[2]; /* reject, resolve */
    JSValue asker;     /* the script's function that asked, and where in it */
    uint32_t asker_pc;
} Pending;

typedef struct {
    JSValue promise, reason;
} Rejection;

static JSRuntime *runtime;
static JSContext *context;
static JSValue body;                                             /* of the script */
static JSValue run_promise;                                      /* what it returned */
static JSAtom script_name;
static JSValue fn_begin, fn_describe, fn_op_error, fn_uncaught;  /* of the prelude */
static Pending *pending;
static uint32_t pending_count, pending_room;
static Rejection rejections[REJECTIONS_MAX];
static uint32_t rejection_count;
static bool ended;

/* --- ends ------------------------------------------------------------------------------------------------------------ */

static void done(uint32_t how, const char *text, size_t length)
{
    if (ended)
        return;
    ended = true;
    host_done(how, text, length);
}

/* The stack that QuickJS itself wrote down, whatever the script made of `stack` since. */
static JSValue stack_of(JSValueConst error)
{
    if (!JS_IsError(error))
        return JS_UNDEFINED;
    return js_dup(JS_VALUE_GET_OBJ(error)->u.object_data);
}

static void done_interrupted(JSValueConst error)
{
    size_t length = 0;
    JSValue stack = stack_of(error);
    const char *text = JS_IsString(stack) ? JS_ToCStringLen(context, &length, stack) : NULL;
    done(DONE_INTERRUPTED, text ? text : "", length);
    JS_FreeCString(context, text);
    JS_FreeValue(context, stack);
}

/* Takes the value. */
static void done_thrown(uint32_t how, JSValue error)
{
    if (JS_IsUncatchableError(error)) {
        done_interrupted(error);
    } else {
        size_t length = 0;
        JSValue description = JS_Call(context, fn_describe, JS_UNDEFINED, 1, vc(&error));
        if (JS_IsException(description)) {
            JSValue second = JS_GetException(context);
            if (JS_IsUncatchableError(second))
                done_interrupted(second);
            JS_FreeValue(context, second);
        }
        const char *text = JS_IsString(description) ? JS_ToCStringLen(context, &length, description) : NULL;
        /* Without a description the host says what it knows: that there was no memory left, or nothing. */
        done(how, text ? text : "", length);
        JS_FreeCString(context, text);
        JS_FreeValue(context, description);
    }
    JS_FreeValue(context, error);
}

static void done_exception(uint32_t how)
{
    done_thrown(how, JS_GetException(context));
}

static void done_value(JSValueConst value)
{
    JSValue json = JS_JSONStringify(context, value, JS_UNDEFINED, JS_UNDEFINED);
    if (JS_IsException(json)) {
        done_exception(DONE_UNSERIALIZABLE);
    } else if (JS_IsUndefined(json)) {
        done(DONE_NOTHING, "", 0);
    } else {
        size_t length;
        const char *text = JS_ToCStringLen(context, &length, json);
        if (text)
            done(DONE_VALUE, text, length);
        else
            done_exception(DONE_THROWN);
        JS_FreeCString(context, text);
    }
    JS_FreeValue(context, json);
}

/* --- promises that nobody looks after -------------------------------------------------------------------------------- */

static void on_rejection(JSContext *c, JSValueConst promise, JSValueConst reason, bool is_handled, void *opaque)
{
    if (is_handled) {
        for (uint32_t i = 0; i < rejection_count; i++) {
            if (JS_VALUE_GET_PTR(rejections[i].promise) == JS_VALUE_GET_PTR(promise)) {
                JS_FreeValue(c, rejections[i].promise);
                JS_FreeValue(c, rejections[i].reason);
                rejections[i] = rejections[--rejection_count];
                return;
            }
        }
    } else if (rejection_count < REJECTIONS_MAX) {
        /* Beyond that they are forgotten: more lines of the kind say nothing more. */
        rejections[rejection_count].promise = js_dup(promise);
        rejections[rejection_count++].reason = js_dup(reason);
    }
}

/* False when it ended the run. */
static bool report_rejections(void)
{
    for (uint32_t i = 0; i < rejection_count; i++) {
        Rejection *rejection = &rejections[i];
        bool of_the_run = JS_IsObject(run_promise) && JS_VALUE_GET_PTR(rejection->promise) == JS_VALUE_GET_PTR(run_promise);
        if (!of_the_run) {
            JSValue said = JS_Call(context, fn_uncaught, JS_UNDEFINED, 1, vc(&rejection->reason));
            if (JS_IsException(said)) {
                JSValue error = JS_GetException(context);
                if (JS_IsUncatchableError(error)) {
                    done_interrupted(error);
                    JS_FreeValue(context, error);
                    return false;
                }
                JS_FreeValue(context, error);
            }
            JS_FreeValue(context, said);
        }
        JS_FreeValue(context, rejection->promise);
        JS_FreeValue(context, rejection->reason);
    }
    rejection_count = 0;
    return true;
}

/* --- the loop -------------------------------------------------------------------------------------------------------- */

static bool run_is_pending(void)
{
    return JS_PromiseState(context, run_promise) == JS_PROMISE_PENDING;
}

/* False when there is no job or the job ended the run. */
static bool run_job(void)
{
    JSContext *of_job;
    int ran = JS_ExecutePendingJob(runtime, &of_job);
    if (ran < 0)
        done_exception(DONE_THROWN);
    return ran > 0;
}

static void pump(void)
{
    while (run_is_pending() && run_job())
        ;
    if (ended)
        return;
    /* A promise that was rejected may be looked after by a job that is due already: a few are let run, not all, for they may
     * be without end. */
    for (uint32_t i = 0; i < REJECTIONS_MAX && rejection_count > 0 && run_job(); i++)
        ;
    if (ended || !report_rejections())
        return;
    JSPromiseStateEnum state = JS_PromiseState(context, run_promise);
    if (state == JS_PROMISE_PENDING) {
        if (pending_count == 0)
            done(DONE_DEADLOCK, "", 0);
        return;
    }
    JSValue result = JS_PromiseResult(context, run_promise);
    if (state == JS_PROMISE_FULFILLED) {
        done_value(result);
        JS_FreeValue(context, result);
    } else {
        done_thrown(DONE_THROWN, result);
    }
}

static int on_interrupt(JSRuntime *r, void *opaque)
{
    return host_interrupt() != 0;
}

/* --- what the prelude is given --------------------------------------------------------------------------------------- */

/* Where in the script somebody asks: the nearest frame of its own code. */
static void note_asker(Pending *entry)
{
    entry->asker = JS_UNDEFINED;
    for (JSStackFrame *frame = runtime->current_stack_frame; frame; frame = frame->prev_frame) {
        if (!JS_IsObject(frame->cur_func))
            continue;
        JSObject *function = JS_VALUE_GET_OBJ(frame->cur_func);
        if (!js_class_has_bytecode(function->class_id) || !frame->cur_pc)
            continue;
        JSFunctionBytecode *code = function->u.func.function_bytecode;
        if (code->filename == script_name) {
            entry->asker = js_dup(frame->cur_func);
            entry->asker_pc = frame->cur_pc - code->byte_code_buf - 1;
            return;
        }
    }
}

static JSValue asker_stack(Pending *entry)
{
    if (!JS_IsObject(entry->asker))
        return JS_UNDEFINED;
    JSFunctionBytecode *code = JS_VALUE_GET_OBJ(entry->asker)->u.func.function_bytecode;
    int column, line = find_line_num(context, code, entry->asker_pc, &column);
    const char *function = get_func_name(context, entry->asker);
    const char *file = JS_AtomToCString(context, code->filename);
    DynBuf text;
    js_dbuf_init(context, &text);
    dbuf_printf(&text, "    at %s (%s:%d:%d)\n", function && *function ? function : "<anonymous>", file ? file : "", line, column);
    JSValue stack = dbuf_error(&text) ? JS_UNDEFINED : JS_NewStringLen(context, (char *)text.buf, text.size);
    dbuf_free(&text);
    JS_FreeCString(context, function);
    JS_FreeCString(context, file);
    return stack;
}

static JSValue op_error(const char *code, const char *message, JSValueConst stack)
{
    JSValue args[3] = {JS_NewString(context, code), JS_NewString(context, message), js_dup(stack)};
    JSValue error = JS_Call(context, fn_op_error, JS_UNDEFINED, 3, vc(args));
    for (int i = 0; i < 3; i++)
        JS_FreeValue(context, args[i]);
    return error;
}

/* ask(op, args): a promise. */
static JSValue hook_ask(JSContext *c, JSValueConst this_value, int argc, JSValueConst *argv)
{
    Pending entry;
    size_t op_length, args_length;
    if (pending_count == pending_room) {
        uint32_t room = pending_room ? pending_room * 2 : 16;
        Pending *grown = js_realloc(c, pending, room * sizeof(Pending));
        if (!grown)
            return JS_EXCEPTION;
        pending = grown;
        pending_room = room;
    }
    JSValue resolving[2];
    JSValue promise = JS_NewPromiseCapability(c, resolving);
    if (JS_IsException(promise))
        return promise;
    entry.settle[1] = resolving[0];
    entry.settle[0] = resolving[1];
    note_asker(&entry);

    JSValue error = JS_UNDEFINED;
    int32_t seq = 0;
    JSValue json = JS_JSONStringify(c, argv[1], JS_UNDEFINED, JS_UNDEFINED);
    if (JS_IsException(json)) {
        error = JS_GetException(c);
    } else {
        const char *op = JS_ToCStringLen(c, &op_length, argv[0]);
        const char *args = JS_IsUndefined(json) ? NULL : JS_ToCStringLen(c, &args_length, json);
        if (!op || (!args && !JS_IsUndefined(json)))
            error = JS_GetException(c);
        else
            seq = args ? host_ask(op, op_length, args, args_length) : host_ask(op, op_length, "null", 4);
        JS_FreeCString(c, op);
        JS_FreeCString(c, args);
    }
    JS_FreeValue(c, json);
    if (JS_IsUncatchableError(error)) {
        JS_FreeValue(c, entry.settle[0]);
        JS_FreeValue(c, entry.settle[1]);
        JS_FreeValue(c, entry.asker);
        JS_FreeValue(c, promise);
        return JS_Throw(c, error);
    }
    if (seq > 0) {
        /* Stringifying may have run the script, and that may have asked for more: there is room again only now. */
        if (pending_count == pending_room) {
            Pending *grown = js_realloc(c, pending, (pending_room + 16) * sizeof(Pending));
            if (!grown) {
                JS_FreeValue(c, entry.settle[0]);
                JS_FreeValue(c, entry.settle[1]);
                JS_FreeValue(c, entry.asker);
                JS_FreeValue(c, promise);
                return JS_EXCEPTION;
            }
            pending = grown;
            pending_room += 16;
        }
        entry.seq = seq;
        pending[pending_count++] = entry;
        return promise;
    }
    if (JS_IsUndefined(error)) {
        const char *message = seq == ASK_TOO_MANY_WAIT ? "too many calls of ctx and timers wait at once"
                            : seq == ASK_TOO_MANY      ? "too many calls of ctx and timers in one run"
                            : seq == ASK_UNKNOWN       ? "there is no such call of ctx"
                                                       : "the arguments are too large or nested too deep";
        JSValue stack = asker_stack(&entry);
        error = op_error("user_error", message, stack);
        JS_FreeValue(c, stack);
        if (JS_IsException(error))
            error = JS_GetException(c);
    }
    JSValue settled = JS_Call(c, entry.settle[0], JS_UNDEFINED, 1, vc(&error));
    JS_FreeValue(c, error);
    JS_FreeValue(c, entry.settle[0]);
    JS_FreeValue(c, entry.settle[1]);
    JS_FreeValue(c, entry.asker);
    if (JS_IsException(settled)) {
        JS_FreeValue(c, promise);
        return settled;
    }
    JS_FreeValue(c, settled);
    return promise;
}

/* log(level, text): whether lines are still taken. */
static JSValue hook_log(JSContext *c, JSValueConst this_value, int argc, JSValueConst *argv)
{
    int32_t level = 1;
    size_t length;
    if (JS_ToInt32(c, &level, argv[0]))
        return JS_EXCEPTION;
    const char *text = JS_ToCStringLen(c, &length, argv[1]);
    if (!text)
        return JS_EXCEPTION;
    uint32_t taken = host_log(level, text, length);
    JS_FreeCString(c, text);
    return js_bool(taken != 0);
}

/* now(): milliseconds since 1970. */
static JSValue hook_now(JSContext *c, JSValueConst this_value, int argc, JSValueConst *argv)
{
    return js_float64(host_now());
}

static uint8_t *bytes_of(JSContext *c, JSValueConst value, size_t *length)
{
    uint8_t *bytes = JS_GetUint8Array(c, length, value);
    return bytes ? bytes : (*length == 0 && JS_GetTypedArrayType(value) >= 0 ? (uint8_t *)"" : NULL);
}

/* random(bytes) */
static JSValue hook_random(JSContext *c, JSValueConst this_value, int argc, JSValueConst *argv)
{
    size_t length = 0;
    uint8_t *bytes = bytes_of(c, argv[0], &length);
    if (!bytes)
        return JS_EXCEPTION;
    if (length > 0)
        host_random(bytes, length);
    return JS_UNDEFINED;
}

/* digest(algorithm, bytes): an ArrayBuffer. */
static JSValue hook_digest(JSContext *c, JSValueConst this_value, int argc, JSValueConst *argv)
{
    int32_t algorithm;
    size_t length = 0;
    uint8_t out[64];
    if (JS_ToInt32(c, &algorithm, argv[0]))
        return JS_EXCEPTION;
    uint8_t *bytes = bytes_of(c, argv[1], &length);
    if (!bytes)
        return JS_EXCEPTION;
    uint32_t size = host_digest(algorithm, bytes, length, out);
    return JS_NewArrayBufferCopy(c, out, size);
}

/* url(part, url, text): the parts of a URL, each on its line, or null. `text` may be undefined. */
static JSValue hook_url(JSContext *c, JSValueConst this_value, int argc, JSValueConst *argv)
{
    int32_t part, size = -1;
    size_t url_length, length = 0;
    JSValue result = JS_NULL;
    if (JS_ToInt32(c, &part, argv[0]))
        return JS_EXCEPTION;
    const char *url = JS_ToCStringLen(c, &url_length, argv[1]);
    if (!url)
        return JS_EXCEPTION;
    const char *text = JS_IsUndefined(argv[2]) ? NULL : JS_ToCStringLen(c, &length, argv[2]);
    if (!text && !JS_IsUndefined(argv[2]))
        result = JS_EXCEPTION;
    else
        size = host_url(part, url, url_length, text, length);
    if (size >= 0) {
        char *out = js_malloc(c, size + 1);
        if (out) {
            host_answer(out);
            result = JS_NewStringLen(c, out, size);
            js_free(c, out);
        } else {
            result = JS_EXCEPTION;
        }
    }
    JS_FreeCString(c, url);
    JS_FreeCString(c, text);
    return result;
}

/* encode(text): a Uint8Array of UTF-8. */
static JSValue hook_encode(JSContext *c, JSValueConst this_value, int argc, JSValueConst *argv)
{
    size_t length;
    const char *text = JS_ToCStringLen(c, &length, argv[0]);
    if (!text)
        return JS_EXCEPTION;
    JSValue bytes = JS_NewUint8ArrayCopy(c, (const uint8_t *)text, length);
    JS_FreeCString(c, text);
    return bytes;
}

/* decode(bytes, fatal): text of UTF-8 as the WHATWG decodes it, or null when it is not and that is fatal. */
static JSValue hook_decode(JSContext *c, JSValueConst this_value, int argc, JSValueConst *argv)
{
    size_t length = 0, used = 0;
    uint8_t *in = bytes_of(c, argv[0], &length);
    bool fatal = JS_ToBool(c, argv[1]) > 0;
    if (!in)
        return JS_EXCEPTION;
    uint16_t *out = js_malloc(c, (length + 1) * sizeof(uint16_t));
    if (!out)
        return JS_EXCEPTION;
    uint32_t point = 0, needed = 0, lower = 0x80, upper = 0xbf;
    for (size_t i = 0; i <= length; i++) {
        bool end = i == length, bad = false;
        uint8_t byte = end ? 0 : in[i];
        if (needed > 0) {
            if (end || byte < lower || byte > upper) {
                bad = true;
                needed = 0;
                if (!end)
                    i--;
            } else {
                point = point << 6 | (byte & 0x3f);
                if (--needed == 0) {
                    if (point >= 0x10000) {
                        out[used++] = 0xd7c0 + (point >> 10);
                        out[used++] = 0xdc00 | (point & 0x3ff);
                    } else {
                        out[used++] = point;
                    }
                }
            }
            lower = 0x80;
            upper = 0xbf;
        } else if (end) {
            break;
        } else if (byte < 0x80) {
            out[used++] = byte;
        } else if (byte >= 0xc2 && byte <= 0xdf) {
            needed = 1;
            point = byte & 0x1f;
        } else if (byte >= 0xe0 && byte <= 0xef) {
            needed = 2;
            point = byte & 0xf;
            lower = byte == 0xe0 ? 0xa0 : 0x80;
            upper = byte == 0xed ? 0x9f : 0xbf;
        } else if (byte >= 0xf0 && byte <= 0xf4) {
            needed = 3;
            point = byte & 7;
            lower = byte == 0xf0 ? 0x90 : 0x80;
            upper = byte == 0xf4 ? 0x8f : 0xbf;
        } else {
            bad = true;
        }
        if (bad) {
            if (fatal) {
                js_free(c, out);
                return JS_NULL;
            }
            out[used++] = 0xfffd;
        }
    }
    JSValue text = JS_NewStringUTF16(c, out, used);
    js_free(c, out);
    return text;
}

static const struct {
    const char *name;
    JSCFunction *function;
    int arguments;
} hooks[] = {
    {"ask", hook_ask, 2},       {"log", hook_log, 2}, {"now", hook_now, 0},       {"random", hook_random, 1},
    {"digest", hook_digest, 2}, {"url", hook_url, 3}, {"encode", hook_encode, 1}, {"decode", hook_decode, 2},
};

static JSModuleDef *no_modules(JSContext *c, const char *name, void *opaque, JSValueConst attributes)
{
    JS_ThrowTypeError(c, "import() is not available in scripts");
    return NULL;
}

static char *name_as_it_is(JSContext *c, const char *base, const char *name, void *opaque)
{
    return js_strdup(c, name);
}

/* --- exports --------------------------------------------------------------------------------------------------------- */

EXPORT(alloc) void *guest_alloc(uint32_t length)
{
    return malloc(length + 1);
}

static int take_function(JSValueConst from, const char *name, JSValue *into)
{
    *into = JS_GetPropertyStr(context, from, name);
    return JS_IsFunction(context, *into) ? 0 : -1;
}

/* Once, before the image is taken. 0 when all is well. */
EXPORT(boot) int32_t guest_boot(char *prelude, uint32_t prelude_length, char *ctx, uint32_t ctx_length, uint32_t stack_bytes)
{
    runtime = JS_NewRuntime();
    if (!runtime)
        return 1;
    JS_SetMaxStackSize(runtime, stack_bytes);
    JS_SetInterruptHandler(runtime, on_interrupt, NULL);
    JS_SetHostPromiseRejectionTracker(runtime, on_rejection, NULL);
    JS_SetModuleLoaderFunc2(runtime, name_as_it_is, no_modules, NULL, NULL);
    context = JS_NewContext(runtime);
    if (!context)
        return 2;
    body = run_promise = JS_UNDEFINED;

    prelude[prelude_length] = ctx[ctx_length] = 0;
    JSValue setup = JS_Eval(context, prelude, prelude_length, "sandbar:prelude", JS_EVAL_FLAG_STRICT);
    JSValue make_ctx = JS_Eval(context, ctx, ctx_length, "sandbar:ctx", JS_EVAL_FLAG_STRICT);
    if (!JS_IsFunction(context, setup) || !JS_IsFunction(context, make_ctx))
        return 3;
    JSValue given = JS_NewObject(context);
    for (size_t i = 0; i < countof(hooks); i++) {
        JSValue hook = JS_NewCFunction(context, hooks[i].function, hooks[i].name, hooks[i].arguments);
        JS_SetPropertyStr(context, given, hooks[i].name, hook);
    }
    JSValue args[2] = {given, make_ctx};
    JSValue api = JS_Call(context, setup, JS_UNDEFINED, 2, vc(args));
    if (!JS_IsObject(api))
        return 4;
    if (take_function(api, "begin", &fn_begin) || take_function(api, "describe", &fn_describe) ||
        take_function(api, "opError", &fn_op_error) || take_function(api, "uncaught", &fn_uncaught))
        return 5;
    JS_FreeValue(context, api);
    JS_FreeValue(context, given);
    JS_FreeValue(context, setup);
    JS_FreeValue(context, make_ctx);
    free(prelude);
    free(ctx);
    JS_RunGC(runtime);
    return 0;
}

static JSFunctionBytecode *first_function(JSFunctionBytecode *code)
{
    for (int i = 0; i < code->cpool_count; i++)
        if (JS_VALUE_GET_TAG(code->cpool[i]) == JS_TAG_FUNCTION_BYTECODE)
            return JS_VALUE_GET_PTR(code->cpool[i]);
    return NULL;
}

/* Where the body closes the function: as a syntax error at that place. */
static void throw_closed(const char *source, uint32_t end, const char *name)
{
    int line = 1, column = 1;
    for (uint32_t i = sizeof(HEAD) - 1; i + 1 < end; i++) {
        column = source[i] == '\n' ? 1 : column + 1;
        line += source[i] == '\n';
    }
    JSValue error = JS_MakeError2(context, JS_SYNTAX_ERROR, false,
                                  "this '}' closes the function that the code is the body of");
    JS_Throw(context, error);
    build_backtrace(context, error, JS_UNDEFINED, name, line, column, JS_BACKTRACE_FLAG_SINGLE_LEVEL);
}

/* 0, or the run has ended. */
EXPORT(compile) int32_t guest_compile(char *code, uint32_t length, char *name, uint32_t name_length)
{
    JS_UpdateStackTop(runtime);
    name[name_length] = 0;
    script_name = JS_NewAtomLen(context, name, name_length);
    size_t whole = sizeof(HEAD) - 1 + length + sizeof(TAIL) - 1;
    char *source = malloc(whole + 1);
    if (!source || script_name == JS_ATOM_NULL) {
        done(DONE_THROWN, "", 0);
        return 1;
    }
    memcpy(source, HEAD, sizeof(HEAD) - 1);
    memcpy(source + sizeof(HEAD) - 1, code, length);
    memcpy(source + sizeof(HEAD) - 1 + length, TAIL, sizeof(TAIL));
    free(code);
    /* Line 0 is the head's, so that the script's own begin with 1. */
    JSValue compiled = JS_EvalInternal(context, context->global_obj, source, whole, name, 0, JS_EVAL_FLAG_COMPILE_ONLY, -1);
    if (!JS_IsException(compiled)) {
        /* A body that closes its function and opens another makes valid code, too; the first function is then shorter. */
        JSFunctionBytecode *first = first_function(JS_VALUE_GET_PTR(compiled));
        uint32_t end = first ? 1 + first->source_len : 0;
        if (end != whole - 1) {
            throw_closed(source, end, name);
            JS_FreeValue(context, compiled);
            compiled = JS_EXCEPTION;
        }
    }
    free(source);
    free(name);
    if (!JS_IsException(compiled))
        compiled = JS_EvalFunction(context, compiled);
    if (JS_IsException(compiled)) {
        done_exception(DONE_THROWN);
        return 1;
    }
    body = compiled;
    return 0;
}

/* Calls what was compiled. */
EXPORT(run) void guest_run(char *data, uint32_t data_length, char *user, uint32_t user_length)
{
    uint64_t state = 0;
    JS_UpdateStackTop(runtime);
    host_random((uint8_t *)&state, sizeof(state));
    context->random_state = state ? state : 1;
    data[data_length] = user[user_length] = 0;
    JSValue args[2] = {
        JS_ParseJSON(context, data, data_length, "ctx.data"),
        JS_ParseJSON(context, user, user_length, "ctx.user"),
    };
    free(data);
    free(user);
    JSValue ctx = JS_EXCEPTION;
    if (!JS_IsException(args[0]) && !JS_IsException(args[1]))
        ctx = JS_Call(context, fn_begin, JS_UNDEFINED, 2, vc(args));
    JS_FreeValue(context, args[0]);
    JS_FreeValue(context, args[1]);
    if (!JS_IsException(ctx))
        run_promise = JS_Call(context, body, JS_UNDEFINED, 1, vc(&ctx));
    if (JS_IsException(ctx) || JS_IsException(run_promise)) {
        done_exception(DONE_THROWN);
        return;
    }
    JS_FreeValue(context, ctx);
    JS_PromiseMarkAsHandled(context, run_promise);
    pump();
}

/* An op was answered: with a value, or with an error (a description: code, a line break, the message). */
EXPORT(settle) void guest_settle(uint32_t seq, uint32_t ok, char *text, uint32_t length)
{
    JS_UpdateStackTop(runtime);
    text[length] = 0;
    for (uint32_t i = 0; i < pending_count; i++) {
        if (pending[i].seq != seq)
            continue;
        Pending entry = pending[i];
        pending[i] = pending[--pending_count];
        JSValue value;
        if (ok) {
            value = JS_ParseJSON(context, text, length, "answer");
        } else {
            char *message = strchr(text, '\n');
            if (message)
                *message++ = 0;
            JSValue stack = asker_stack(&entry);
            value = op_error(text, message ? message : "", stack);
            JS_FreeValue(context, stack);
        }
        if (JS_IsException(value)) {
            /* No memory for the answer: that is what the script is told. */
            ok = 0;
            value = JS_GetException(context);
        }
        JSValue settled = JS_Call(context, entry.settle[ok ? 1 : 0], JS_UNDEFINED, 1, vc(&value));
        JS_FreeValue(context, value);
        JS_FreeValue(context, entry.settle[0]);
        JS_FreeValue(context, entry.settle[1]);
        JS_FreeValue(context, entry.asker);
        if (JS_IsException(settled))
            done_exception(DONE_THROWN);
        break;
    }
    free(text);
    if (!ended)
        pump();
}
