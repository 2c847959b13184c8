"""A guest book: a form, a page that shows at once what others write, and one tool for models."""

from fastapi import FastAPI, Form, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import RedirectResponse
from fastapi.templating import Jinja2Templates

import guests

app = FastAPI()
pages = Jinja2Templates(directory="templates")
watching = set()


@app.get("/healthz")
def health():
    return {"guests": len(guests.all())}


@app.get("/")
def page(request: Request):
    return pages.TemplateResponse(request, "page.html", {"guests": guests.all()})


@app.post("/guests")
async def sign(name: str = Form(max_length=40), said: str = Form(max_length=200)):
    guests.add(name, said)
    for line in list(watching):
        await line.send_json({"name": name, "said": said})
    return RedirectResponse("/", status_code=303)


@app.websocket("/live")
async def live(line: WebSocket):
    await line.accept()
    watching.add(line)
    try:
        while True:
            await line.receive_text()
    except WebSocketDisconnect:
        watching.discard(line)


TOOL = {"name": "guests", "description": "Who was here", "inputSchema": {"type": "object"}}


@app.post("/mcp")
async def mcp(request: Request):
    """The Model Context Protocol by HTTP, as far as one tool needs it."""
    asked = await request.json()
    if "id" not in asked:
        return Response(status_code=202)
    match asked["method"]:
        case "initialize":
            info = {"name": "guestbook", "version": "1"}
            said = {"protocolVersion": asked["params"]["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": info}
        case "tools/list":
            said = {"tools": [TOOL]}
        case "tools/call":
            said = {"content": [{"type": "text", "text": ", ".join(guest["name"] for guest in guests.all())}]}
        case method:
            return {"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32601, "message": f"there is no {method}"}}
    return {"jsonrpc": "2.0", "id": asked["id"], "result": said}
