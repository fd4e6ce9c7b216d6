/* Browsers start no Worker for a page that is opened from disk, and the search needs one: a hidden frame does
 * the same. Nothing is replaced where the page comes from a server. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.onmessage = this.onerror = this.onmessageerror = null
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.append(this.frame)
      const inside = this.frame.contentWindow
      const answer = (type, event) => queueMicrotask(() => {
        this["on" + type]?.(event)
        this.dispatchEvent(event)
      })
      inside.postMessage = (data) => answer("message", new MessageEvent("message", { data }))
      this.ready = new Promise((loaded) => {
        const script = inside.document.createElement("script")
        script.src = new URL(url, location.href).href
        script.onload = () => loaded(inside)
        script.onerror = () => answer("error", new ErrorEvent("error", { message: `${script.src} was not loaded` }))
        inside.document.body.append(script)
      })
    }
    postMessage(data) {
      this.ready.then((inside) => inside.dispatchEvent(new inside.MessageEvent("message", { data })))
    }
    terminate() {
      this.frame.remove()
    }
  }
}
