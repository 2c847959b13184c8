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
    DONE_WRITING = 6,        /* not yet: the result is being written as JSON, which may end in a trap when it is very deep */
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
    host_done(DONE_WRITING, "", 0);
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

#include "hooks.c"

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
