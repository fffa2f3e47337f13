/**
 * The search box: a combobox (WAI-ARIA practices). Invariant: the results belong to the text in the box; an answer for an older
 * text is cancelled.
 */
import { moment } from '../format.js'
import { useEffect, useRef, useState } from '../hooks.js'
import { request } from '../request.js'
import { customerHref, resourceHref, rowHref } from '../routes.js'
import { html } from '../view.js'
import { Status } from './table.js'

/** Milliseconds without a key press before the text is sent. */
const PAUSE_MS = 150

/** @param {import('../types.d.ts').Found} found */
const hrefOf = ({ kind, id }) =>
  kind === 'resource' ? resourceHref(id) : kind === 'customer' ? customerHref(id) : rowHref(kind, id)

const isTyping = (target) => target instanceof HTMLElement && /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)

/** Focuses the field on "/", except while something is typed. */
function useSlash(field) {
  useEffect(() => {
    const gone = new AbortController()
    document.addEventListener(
      'keydown',
      (event) => {
        if (event.key !== '/' || event.ctrlKey || event.metaKey || isTyping(event.target)) return
        event.preventDefault()
        field.current?.focus()
        field.current?.select()
      },
      { signal: gone.signal },
    )
    return () => gone.abort()
  }, [])
}

/** Returns what the API finds for a text; undefined until it has answered. */
function useResults(text) {
  const [found, setFound] = useState({ text: '', results: [], problem: undefined })
  useEffect(() => {
    if (text === '') return undefined
    const gone = new AbortController()
    const timer = setTimeout(async () => {
      try {
        const { status, body } = await request('GET', `/api/dashboard/search?q=${encodeURIComponent(text)}`, {
          signal: gone.signal,
        })
        setFound({ text, results: body.results ?? [], problem: status === 200 ? undefined : body.detail })
      } catch {
        if (!gone.signal.aborted) setFound({ text, results: [], problem: 'The server does not answer.' })
      }
    }, PAUSE_MS)
    return () => {
      clearTimeout(timer)
      gone.abort()
    }
  }, [text])
  return text !== '' && found.text === text ? found : undefined
}

export function Search() {
  const field = useRef(null)
  const [typed, setTyped] = useState('')
  const [open, setOpen] = useState(false)
  const [active, setActive] = useState(0)
  // Enter that comes before the results chooses the first of them when they arrive.
  const [wanted, setWanted] = useState(false)
  const found = useResults(typed.trim())
  const results = found?.results ?? []
  useSlash(field)

  function choose(result) {
    setOpen(false)
    setWanted(false)
    setTyped('')
    field.current.blur()
    location.hash = hrefOf(result)
  }
  useEffect(() => {
    if (wanted && results.length > 0) choose(results[0])
  }, [wanted, found])

  function onKeyDown(event) {
    const move = { ArrowDown: 1, ArrowUp: -1 }[event.key]
    if (move && results.length > 0) {
      event.preventDefault()
      setOpen(true)
      setActive((active + move + results.length) % results.length)
    } else if (event.key === 'Enter') {
      event.preventDefault()
      if (results[active]) choose(results[active])
      else setWanted(!found)
    } else if (event.key === 'Escape') {
      setOpen(false)
      setWanted(false)
      if (!open) setTyped('')
    }
  }
  const shown = open && found !== undefined
  return html`
    <div class="search" role="search">
      <input ref=${field} type="text" role="combobox" autocomplete="off" spellcheck=${false} placeholder="Find an id, a customer, a resource"
        aria-label="Find a purchase, booking, customer or resource" aria-expanded=${shown} aria-controls="results" aria-autocomplete="list"
        aria-activedescendant=${shown && results.length > 0 ? `result-${active}` : undefined} aria-keyshortcuts="/" value=${typed}
        onInput=${(event) => {
          setTyped(event.target.value)
          setActive(0)
          setWanted(false)
          setOpen(true)
        }}
        onFocus=${() => setOpen(true)} onBlur=${() => setOpen(false)} onKeyDown=${onKeyDown} />
      <kbd aria-hidden="true">/</kbd>
      <ul id="results" role="listbox" aria-label="Results" hidden=${!shown || results.length === 0}>
        ${results.map(
          (one, i) => html`
            <li key=${`${one.kind} ${one.id}`} id=${`result-${i}`} role="option" aria-selected=${i === active}
              onMouseDown=${(event) => event.preventDefault()} onClick=${() => choose(one)}>
              <span class="kind">${one.kind}</span>
              <span class="found"><b>${one.id}</b><span class="second">${one.title}${one.at ? `, ${moment(one.at)}` : ''}</span></span>
              ${one.status && html`<${Status} status=${one.status} />`}
            </li>`,
        )}
      </ul>
      <p class="nothing" role="status" hidden=${!shown || results.length > 0}>${shown && results.length === 0 ? (found.problem ?? `Nothing is called “${typed.trim()}”.`) : ''}</p>
    </div>`
}
