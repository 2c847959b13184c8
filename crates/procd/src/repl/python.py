import os, sys, io, signal, builtins, linecache, _ast, __future__

os.set_inheritable(3, False)
os.set_inheritable(4, False)
main = sys.modules['__main__']
scope = main.__dict__
for name in [n for n in scope if not n.startswith('__')]:
    del scope[name]
scope.pop('__annotations__', None)
sys.argv = ['']
builtins._ = None
own_pid = os.getpid()
FUTURES = 0
for name in __future__.all_feature_names:
    FUTURES |= getattr(__future__, name).compiler_flag
state = {'count': 0, 'flags': 0, 'loop': None}
sources = []


class Stdin(io.BufferedIOBase):
    # Never takes more than was asked for, so that what code leaves unread stays in the pipe.
    name = '<stdin>'
    mode = 'rb'

    def __init__(self):
        self.raw = io.FileIO(0, 'rb', closefd=False)

    def readable(self):
        return True

    def fileno(self):
        return 0

    def isatty(self):
        return False

    def readline(self, limit=-1):
        line = bytearray()
        while limit is None or limit < 0 or len(line) < limit:
            byte = os.read(0, 1)
            if not byte:
                break
            line += byte
            if byte == b'\n':
                break
        return bytes(line)

    def read1(self, size=-1):
        return self.readline(size)

    def read(self, size=-1):
        if size is None or size < 0:
            return self.raw.readall()
        data = bytearray()
        while len(data) < size:
            more = os.read(0, size - len(data))
            if not more:
                break
            data += more
        return bytes(data)

    def readinto(self, buffer):
        data = self.readline(len(buffer))
        buffer[:len(data)] = data
        return len(data)

    readinto1 = readinto


try:
    sys.stdin = io.TextIOWrapper(Stdin(), encoding=sys.stdin.encoding, errors=sys.stdin.errors)
except Exception:
    pass


def idle(number, frame):
    pass


signal.signal(signal.SIGINT, idle)


def receive(size):
    parts = []
    while size:
        part = os.read(3, min(size, 1 << 20))
        if not part:
            raise SystemExit(0)
        parts.append(part)
        size -= len(part)
    return b''.join(parts)


def run(code):
    value = eval(code, scope)
    if code.co_flags & 0x80:
        import asyncio
        loop = state['loop']
        if loop is None or loop.is_closed():
            loop = state['loop'] = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
        task = loop.create_task(value)
        try:
            loop.run_until_complete(task)
        except KeyboardInterrupt:
            task.cancel()
            try:
                loop.run_until_complete(task)
            except BaseException:
                pass
            raise KeyboardInterrupt from None


def execute(text):
    state['count'] += 1
    name = '<input-%d>' % state['count']
    lines = [line + '\n' for line in text.split('\n')]
    linecache.cache[name] = (len(text), None, lines, name)
    sources.append(name)
    if len(sources) > 512:
        linecache.cache.pop(sources.pop(0), None)
    flags = state['flags'] | 0x2000
    tree = compile(text, name, 'exec', flags | 0x400, True)
    last = []
    if tree.body and isinstance(tree.body[-1], _ast.Expr):
        last = [tree.body.pop()]
    # All is compiled before any of it runs.
    codes = []
    if tree.body:
        codes.append(compile(tree, name, 'exec', flags, True))
    if last:
        codes.append(compile(_ast.Interactive(last), name, 'single', flags, True))
    for code in codes:
        state['flags'] |= code.co_flags & FUTURES
        run(code)


def show(error):
    trace = error.__traceback__
    while trace is not None and not trace.tb_frame.f_code.co_filename.startswith('<input-'):
        trace = trace.tb_next
    error.__traceback__ = trace
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
    if sys.excepthook is not sys.__excepthook__:
        sys.excepthook(type(error), error, trace)
        return
    import traceback
    traceback.print_exception(type(error), error, trace)


def flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            pass


def serve():
    while True:
        text = receive(int(receive(8))).decode('utf-8', 'surrogateescape')
        leaving = None
        try:
            try:
                if signal.getsignal(signal.SIGINT) is idle:
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                execute(text)
            finally:
                if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                    signal.signal(signal.SIGINT, idle)
        except SystemExit as error:
            leaving = error
        except BaseException as error:
            try:
                show(error)
            except BaseException:
                try:
                    os.write(2, (type(error).__name__ + ' (its traceback cannot be shown)\n').encode())
                except OSError:
                    pass
        flush()
        if leaving is not None:
            leaving.__traceback__ = None
            raise leaving
        if os.getpid() != own_pid:
            os._exit(0)
        os.write(4, b'.')


serve()
