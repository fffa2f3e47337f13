/**
 * Runs in the browser after Swagger UI's scripts and before its start: fits the page to a phone, names it, and closes the
 * lab's operations.
 */
document.head.append(
  Object.assign(document.createElement('meta'), { name: 'viewport', content: 'width=device-width, initial-scale=1' }),
)
const start = window.SwaggerUIBundle
window.SwaggerUIBundle = Object.assign((config) => {
  const ui = start({
    ...config,
    onComplete() {
      Object.assign(document.querySelector('.topbar .link'), { href: '/', title: 'Dashboard' })
      document.querySelector('.topbar .link img')?.setAttribute('alt', '')
      // A link to an operation of the lab has opened them already.
      if (!location.hash.startsWith('#/lab')) ui.layoutActions.show(['operations-tag', 'lab'], false)
    },
  })
  return ui
}, start)
