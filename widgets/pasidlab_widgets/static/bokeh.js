// A Bokeh figure. BokehJS comes from the installed Python package, once a page, over the view's own channel: no CDN, nothing kept in the notebook.
// From Python: {type: "bokehjs"} with the files, {type: "item", view, item}, {type: "patch", content, ids} with buffers.
// To Python:   {type: "need-bokehjs"}, {type: "need-item", view}, {type: "event", event}, {type: "error", text}.
// Traits: version (of Bokeh), accept (attributes that a person may change here, such as a selection), label.

const BOKEHS = Symbol.for("pasidlab.bokeh");

async function load(buffers, version) {
  const before = globalThis.Bokeh;
  for (const buffer of buffers) {
    const url = URL.createObjectURL(new Blob([buffer], { type: "text/javascript" }));
    await new Promise((ready, failed) => {
      const script = document.createElement("script");
      script.src = url;
      script.onload = ready;
      script.onerror = () => failed(new Error("BokehJS could not be loaded"));
      document.head.append(script);
    });
    URL.revokeObjectURL(url);
  }
  const ours = globalThis.Bokeh.version === version ? globalThis.Bokeh : globalThis.Bokeh[version];
  if (before && before !== ours) {                             // another version was here first: it stays in charge
    before[version] = ours;
    globalThis.Bokeh = before;
  }
  return ours;
}

function bokeh(model) {
  const version = model.get("version");
  if (globalThis.Bokeh?.version === version) return Promise.resolve(globalThis.Bokeh);
  const all = (globalThis[BOKEHS] ??= {});
  all[version] ??= new Promise((ready, failed) => {
    const got = (message, buffers) => {
      if (message?.type !== "bokehjs") return;
      model.off("msg:custom", got);
      load(buffers, version).then(ready, failed);
    };
    model.on("msg:custom", got);
    model.send({ type: "need-bokehjs" });
  }).catch((error) => { delete all[version]; throw error; });
  return all[version];
}

export default {
  async render({ model, el }) {
    el.classList.add("pasidlab", "pl-bokeh");
    el.setAttribute("role", "img");
    el.setAttribute("aria-label", model.get("label"));
    const view = Math.random().toString(36).slice(2);
    let Bokeh = null, shown = null, waiting = null, applying = false, gone = false;

    const fail = (error) => {
      console.error(error);
      const box = document.createElement("div");
      box.className = "pl-error";
      box.setAttribute("role", "alert");
      box.textContent = `This chart could not be drawn: ${error?.message ?? error}`;
      el.prepend(box);
      model.send({ type: "error", text: String(error?.message ?? error) });
    };
    const exact = (v) => v.buffer.slice(v.byteOffset, v.byteOffset + v.byteLength);
    const apply = (message, buffers) => {
      applying = true;
      try {
        shown.apply_json_patch(message.content, new Map(message.ids.map((id, i) => [id, exact(buffers[i])])));
        el.dataset.revision = message.revision;
      } finally { applying = false; }
    };
    const send = (event) => {
      // Only what a person did, never the answer to a patch: the data belong to Python.
      if (applying || !(event.kind === "MessageSent" || (event.kind === "ModelChanged" && model.get("accept").includes(event.attr)))) return;
      const { Serializer } = Bokeh.require("core/serialization");
      const references = new Map([...shown._all_models.values()].map((m) => [m, m.ref()]));
      model.send({ type: "event", event: new Serializer({ references }).encode(event) });
    };
    const draw = async (item, revision) => {
      const { Document } = Bokeh.require("document"), { add_document_standalone } = Bokeh.require("embed/standalone");
      const document_ = Document.from_json(item.doc), box = document.createElement("div");
      el.replaceChildren(box);
      await add_document_standalone(document_, box, { [item.root_id]: box });
      if (gone) { document_.clear(); return; }
      shown = document_;
      shown.on_change(send);
      el.dataset.revision = revision;
      const late = waiting;
      waiting = null;
      for (const [message, buffers] of late) apply(message, buffers);
    };
    const listen = (message, buffers) => {
      try {
        if (message?.type === "item" && message.view === view) {
          waiting = [];
          draw(message.item, message.revision).catch(fail);
        } else if (message?.type === "patch") {
          if (shown) apply(message, buffers); else waiting?.push([message, buffers]);
        }
      } catch (error) { fail(error); }
    };
    model.on("msg:custom", listen);
    bokeh(model).then((loaded) => { Bokeh = loaded; if (!gone) model.send({ type: "need-item", view }); }).catch(fail);
    return () => { gone = true; model.off("msg:custom", listen); shown?.clear(); };
  },
};
