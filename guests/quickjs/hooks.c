/* What the prelude is given: functions of the host, for JavaScript. Part of shim.c, which includes it. */

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
        const char *message = seq == ASK_TOO_MANY_WAIT ? "too many calls of ctx wait at once"
                            : seq == ASK_TOO_MANY      ? "too many calls of ctx in one run"
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
