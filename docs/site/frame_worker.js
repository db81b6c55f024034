// Search from the disk. A browser starts no worker for a page of the scheme file:, so the worker's script runs in a
// hidden frame. The theme looks for this class by its name, and awaits importScripts.
window.IFrameWorker = class IFrameWorker extends EventTarget {
  constructor(url) {
    super();
    this.onmessage = this.onerror = null;
    const frame = document.createElement("iframe");
    frame.hidden = true;
    document.body.append(frame);
    this.scope = frame.contentWindow;
    this.scope.postMessage = (data) => this.tell("message", data);
    this.scope.importScripts = async (...urls) => {
      for (const each of urls) await this.load(each);
    };
    this.ready = this.load(url); // messages wait for it, in their order
  }

  load(url) {
    const script = this.scope.document.createElement("script");
    return new Promise((resolve, reject) => {
      script.onload = resolve;
      script.onerror = () => reject(this.tell("error", url));
      script.src = url;
      this.scope.document.body.append(script);
    });
  }

  tell(type, data) {
    const event = new MessageEvent(type, { data });
    queueMicrotask(() => {
      this.dispatchEvent(event);
      this[`on${type}`]?.(event);
    });
    return event;
  }

  postMessage(data) {
    this.ready.then(() => this.scope.dispatchEvent(new this.scope.MessageEvent("message", { data })));
  }

  terminate() {
    this.scope.frameElement.remove();
  }
};

if (location.protocol === "file:") window.Worker = window.IFrameWorker;
