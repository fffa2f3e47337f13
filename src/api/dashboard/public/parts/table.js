/** Sections and tables. Invariant: on a phone each row is a block of labelled values, so that no table is wider than the screen. */
import { html } from '../view.js'

/** @param {{ id: string, title: any, note?: any, children?: any, className?: string, aside?: any }} props */
export const Section = ({ id, title, note, aside, className = '', children }) => html`
  <section class=${`panel ${className}`} aria-labelledby=${id}>
    <div class="panel-head"><h2 id=${id}>${title}</h2>${aside}</div>
    ${children}
    ${note && html`<p class="note">${note}</p>`}
  </section>`

/**
 * One row for each item. The first column is the row's header. `none` is shown if there are no items, and `missing` if they could
 * not be read.
 * @param {{ label: string, items: any[] | null | undefined, keyOf: (item: any) => string, none: string, missing?: string,
 *   columns: { title: any, cell: (item: any) => any, number?: boolean, wide?: boolean }[] }} props
 */
export function Table({ label, items, keyOf, none, missing = 'Unknown: it could not be read.', columns }) {
  if (!items || items.length === 0) return html`<p class="empty">${items ? none : missing}</p>`
  /** @param {{ number?: boolean, wide?: boolean }} column */
  const classOf = ({ number, wide }) => [number && 'number', wide && 'wide'].filter(Boolean).join(' ')
  return html`
    <table role="table" aria-label=${label}>
      <thead role="rowgroup">
        <tr role="row">${columns.map((column) => html`<th role="columnheader" scope="col" class=${classOf(column)}>${column.title}</th>`)}</tr>
      </thead>
      <tbody role="rowgroup">
        ${items.map(
          (item) => html`
            <tr role="row" key=${keyOf(item)} data-key=${keyOf(item)}>
              ${columns.map((column, i) =>
                i === 0
                  ? html`<th role="rowheader" scope="row" class=${classOf(column)}>${column.cell(item)}</th>`
                  : html`<td role="cell" class=${classOf(column)} data-label=${typeof column.title === 'string' ? column.title : ''}>${column.cell(item)}</td>`,
              )}
            </tr>`,
        )}
      </tbody>
    </table>`
}

/** A second line in small print. */
export const Second = ({ children }) => html`<span class="second">${children}</span>`

/** A word for a status with a dot in its colour. */
export const Status = ({ status }) =>
  html`<span class=${`status ${status}`}>${String(status).replaceAll('_', ' ')}</span>`
