/** The tables of the dashboard. Invariant: rows are changed in place, so neither focus nor scroll place is lost. */

const numbers = new Intl.NumberFormat('en')
export const count = (n) => numbers.format(n).replace('-', '−')

/** Milliseconds as a person says them. */
export function time(ms) {
  if (ms < 1_000) return `${Math.round(ms)} ms`
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min`
  return `${Math.floor(ms / 3_600_000)} h`
}

/** Only what differs is written: a screen reader is not told of what stayed. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text
}

export function make(tag, className = '', text = '') {
  const element = document.createElement(tag)
  if (className) element.className = className
  if (text) element.textContent = text
  return element
}

/**
 * One row for each item, in their order. `columns` are drawn into cells that stay; the first one is the row's header.
 * `none` is said when there are no items, `missing` when it is not known whether there are.
 */
function fill(body, items, keyOf, columns, { none, missing = 'Not known: it could not be asked.' }) {
  const before = new Map(Array.from(body.rows, (row) => [row.dataset.key, row]))
  const rows = (items ?? []).map((item) => {
    const key = keyOf(item)
    const row = before.get(key) ?? newRow(key, columns)
    columns.forEach(({ draw }, i) => {
      draw(row.cells[i], item)
    })
    return row
  })
  if (rows.length === 0) {
    const row = before.get('') ?? newRow('', [{ tag: 'td' }])
    row.cells[0].colSpan = columns.length
    row.cells[0].className = 'note'
    say(row.cells[0], items ? none : missing)
    rows.push(row)
  }
  for (const row of before.values()) if (!rows.includes(row)) row.remove()
  rows.forEach((row, i) => {
    if (body.rows[i] !== row) body.insertBefore(row, body.rows[i] ?? null)
  })
}

function newRow(key, columns) {
  const row = make('tr')
  row.dataset.key = key
  columns.forEach(({ tag = 'td', className = '' }) => {
    const cell = make(tag, className)
    if (tag === 'th') cell.scope = 'row'
    row.append(cell)
  })
  return row
}

/** A first line, and a second one in small. */
function twoLines(cell, first, second) {
  if (cell.children.length === 0) cell.append(make('span', 'first'), make('span', 'second'))
  say(cell.children[0], first)
  say(cell.children[1], second)
}

const number = (of) => ({ className: 'number', draw: (cell, item) => say(cell, of(item)) })

const byTime = (resource) => resource.kind === 'calendar'
const units = (of) => number((resource) => (byTime(resource) ? '–' : count(of(resource))))

export function showResources(body, resources) {
  const columns = [
    {
      tag: 'th',
      draw: (cell, one) => twoLines(cell, one.resource, byTime(one) ? `${one.name}, booked by time` : one.name),
    },
    { className: 'share-column', draw: drawShare },
    units((one) => one.available),
    units((one) => one.held),
    units((one) => one.sold),
  ]
  fill(body, resources, (one) => one.resource, columns, { none: 'Nothing is for sale yet.' })
}

function drawShare(cell, one) {
  if (cell.children.length === 0) {
    const bar = make('span', 'share')
    bar.setAttribute('aria-hidden', 'true')
    bar.append(make('i', 'left'), make('i', 'held'), make('i', 'sold'))
    cell.append(bar)
  }
  const bar = cell.firstElementChild
  bar.hidden = byTime(one) || one.total === 0
  const parts = [one.available, one.held, one.sold]
  parts.forEach((part, i) => {
    bar.children[i].style.flexGrow = String(part)
  })
}

export function showLines(body, lines) {
  const columns = [
    { tag: 'th', draw: (cell, line) => say(cell, line.resource) },
    number((line) => count(line.length) + (line.more ? '+' : '')),
    number((line) => time(line.oldest_ms)),
  ]
  fill(body, lines, (line) => line.resource, columns, { none: 'Nobody stands in line.' })
}

export function showLocks(body, locks, now_ms) {
  const entries = locks?.flatMap((lock) => {
    const waiters = lock.waiters.map((waiter) => waiter.owner)
    const holders = lock.holders.length > 0 ? lock.holders : [undefined]
    return holders.map((holder, i) => ({ lock, holder, key: `${lock.resource} ${i}`, waiters: i === 0 ? waiters : [] }))
  })
  const mode = (holder) => (holder.mode === 'permit' ? `permit of ${holder.limit}` : holder.mode)
  const since = (holder) => time(Math.max(0, now_ms - Date.parse(holder.since)))
  const columns = [
    {
      tag: 'th',
      draw: (cell, { lock, holder }) =>
        twoLines(cell, lock.resource, holder ? `${mode(holder)}: ${holder.owner}` : 'free, being handed over'),
    },
    {
      className: 'token',
      draw: (cell, { lock, holder }) =>
        twoLines(cell, holder ? since(holder) : '–', String(holder?.fencing_token ?? lock.fencing_token)),
    },
    {
      draw: (cell, { waiters }) => twoLines(cell, waiters.length > 0 ? count(waiters.length) : '–', waiters.join(', ')),
    },
  ]
  fill(body, entries, (entry) => entry.key, columns, { none: 'No lease is held.' })
}

const STATES = { closed: 'closed', half_open: 'half open', open: 'open' }

export function showBreakers(body, breakers) {
  const columns = [
    { tag: 'th', draw: (cell, one) => say(cell, one.process === 'api' ? 'api (this one)' : `worker ${one.process}`) },
    {
      draw(cell, one) {
        const states = Object.entries(one.breakers)
        if (cell.children.length !== states.length) cell.replaceChildren(...states.map(() => make('span')))
        states.forEach(([name, state], i) => {
          cell.children[i].className = `state ${state}`
          say(cell.children[i], `${name} ${STATES[state]}`)
        })
      },
    },
  ]
  fill(body, breakers, (one) => one.process, columns, { none: 'No process has told of its breakers.' })
}
