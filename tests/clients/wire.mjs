// Watches the Bayeux messages that really go out and come in, in Node and in browsers, whatever extensions make of them:
// calls `sent` and `received` with each. To be called before a client makes its first request.
export function watchTheWire(sent, received) {
  const tell = (told, text) => [JSON.parse(text)].flat().forEach(told);
  const Request = window.XMLHttpRequest;
  window.XMLHttpRequest = class extends Request {
    constructor() {
      super();
      // The adapter for Node has methods of each request, not of the class.
      const { send } = this;
      this.send = (text) => {
        const loaded = this.onload;
        this.onload = (event) => {
          if (this.status === 200) tell(received, this.responseText);
          loaded?.call(this, event);
        };
        tell(sent, text);
        send.call(this, text);
      };
    }
  };
  const Socket = window.WebSocket;
  window.WebSocket = class extends Socket {
    constructor(...settings) {
      super(...settings);
      this.addEventListener('message', ({ data }) => tell(received, data));
    }
    send(text) {
      tell(sent, text);
      super.send(text);
    }
  };
}
