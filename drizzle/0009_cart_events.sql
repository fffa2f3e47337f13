-- A cart is an event of each of its resources: one row of the outbox for each, numbered by that resource's own head. The
-- heads of a statement are locked in the order of their references, as before, so two carts of the same resources cannot
-- wait for each other.
CREATE OR REPLACE FUNCTION holdfast_purchases_changed() RETURNS trigger LANGUAGE plpgsql
  SET enable_hashjoin = on SET enable_seqscan = on SET enable_nestloop = off AS $$
BEGIN
  WITH moved AS MATERIALIZED (
    SELECT n.id, n.seq, n.queue, n.lines, n.status, n.reason
    FROM new_rows n JOIN old_rows o ON o.id = n.id WHERE n.status <> o.status
  ), told AS (
    SELECT queue AS resource, id, seq, status, reason FROM moved
    UNION ALL
    SELECT DISTINCT (l ->> 'resource') COLLATE "C", id, seq, status, reason
    FROM moved CROSS JOIN LATERAL jsonb_array_elements(lines) l
    WHERE jsonb_array_length(lines) > 1 AND l ->> 'resource' <> queue
  ), changed AS (
    SELECT resource, count(*) AS n, array_agg(id ORDER BY seq) AS subjects, array_agg(status ORDER BY seq) AS statuses,
           array_agg(reason ORDER BY seq) AS reasons
    FROM told GROUP BY resource
  ), head AS (
    INSERT INTO outbox_heads AS h (resource, last) SELECT resource, n FROM changed ORDER BY resource
    ON CONFLICT (resource) DO UPDATE SET last = h.last + excluded.last RETURNING resource, last
  )
  INSERT INTO outbox (resource, about, last, subjects, statuses, reasons)
  SELECT resource, 'purchase', head.last, subjects, statuses, reasons FROM changed JOIN head USING (resource);
  RETURN NULL;
END $$;
--> statement-breakpoint
CREATE OR REPLACE FUNCTION holdfast_row_came() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_TABLE_NAME = 'purchases' THEN
    PERFORM holdfast_one_more(resource, 'purchase', NEW.id, NEW.status, NEW.reason, NULL)
    FROM (
      SELECT NEW.queue AS resource
      UNION SELECT (l ->> 'resource') COLLATE "C" FROM jsonb_array_elements(NEW.lines) l WHERE l ? 'resource'
      ORDER BY resource
    ) told;
  ELSIF TG_TABLE_NAME = 'bookings' THEN
    PERFORM holdfast_one_more(NEW.resource, 'booking', NEW.id, NEW.status, NEW.reason, NULL);
  ELSE
    PERFORM holdfast_one_more(NEW.resource, 'resource', NULL, 'restocked', NEW.reason, NEW.delta);
  END IF;
  RETURN NULL;
END $$;
