CREATE TABLE "outbox" (
	"id" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "outbox_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"resource" text COLLATE "C" NOT NULL,
	"about" text NOT NULL,
	"last" bigint NOT NULL,
	"subjects" uuid[] NOT NULL,
	"statuses" text[] NOT NULL,
	"reasons" text[] NOT NULL,
	"delta" bigint,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	CONSTRAINT "outbox_about_check" CHECK ("outbox"."about" IN ('purchase', 'booking', 'resource'))
);
--> statement-breakpoint
CREATE TABLE "outbox_heads" (
	"resource" text COLLATE "C" PRIMARY KEY NOT NULL,
	"last" bigint NOT NULL
);
--> statement-breakpoint
CREATE TABLE "outbox_kept" (
	"one" boolean PRIMARY KEY DEFAULT true NOT NULL,
	"dropped" bigint DEFAULT 0 NOT NULL,
	CONSTRAINT "outbox_kept_one_check" CHECK ("outbox_kept"."one")
);
--> statement-breakpoint
CREATE INDEX "outbox_by_resource" ON "outbox" USING btree ("resource","id");--> statement-breakpoint
INSERT INTO outbox_kept DEFAULT VALUES;
--> statement-breakpoint
-- One row a resource that is updated at every batch, as resources has it.
ALTER TABLE outbox_heads SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
--> statement-breakpoint
-- Gives what a statement changed of each resource its numbers and writes it down. The head's row lock comes before the
-- identity of the outbox row, and is kept to the commit: by id or by number, a resource's changes stand in one order.
-- The settings: workers plan without hash joins, for which these two tables of changed rows are the exception.
CREATE FUNCTION holdfast_purchases_changed() RETURNS trigger LANGUAGE plpgsql
  SET enable_hashjoin = on SET enable_seqscan = on SET enable_nestloop = off AS $$
BEGIN
  WITH changed AS (
    SELECT n.queue AS resource, count(*) AS n, array_agg(n.id ORDER BY n.seq) AS subjects,
           array_agg(n.status ORDER BY n.seq) AS statuses, array_agg(n.reason ORDER BY n.seq) AS reasons
    FROM new_rows n JOIN old_rows o ON o.id = n.id WHERE n.status <> o.status GROUP BY n.queue
  ), head AS (
    INSERT INTO outbox_heads AS h (resource, last) SELECT resource, n FROM changed ORDER BY resource
    ON CONFLICT (resource) DO UPDATE SET last = h.last + excluded.last RETURNING resource, last
  )
  INSERT INTO outbox (resource, about, last, subjects, statuses, reasons)
  SELECT resource, 'purchase', head.last, subjects, statuses, reasons FROM changed JOIN head USING (resource);
  RETURN NULL;
END $$;
--> statement-breakpoint
CREATE TRIGGER purchases_changed AFTER UPDATE ON purchases REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION holdfast_purchases_changed();
--> statement-breakpoint
CREATE FUNCTION holdfast_bookings_changed() RETURNS trigger LANGUAGE plpgsql
  SET enable_hashjoin = on SET enable_seqscan = on SET enable_nestloop = off AS $$
BEGIN
  WITH changed AS (
    SELECT n.resource, count(*) AS n, array_agg(n.id ORDER BY n.seq) AS subjects,
           array_agg(n.status ORDER BY n.seq) AS statuses, array_agg(n.reason ORDER BY n.seq) AS reasons
    FROM new_rows n JOIN old_rows o ON o.id = n.id WHERE n.status <> o.status GROUP BY n.resource
  ), head AS (
    INSERT INTO outbox_heads AS h (resource, last) SELECT resource, n FROM changed ORDER BY resource
    ON CONFLICT (resource) DO UPDATE SET last = h.last + excluded.last RETURNING resource, last
  )
  INSERT INTO outbox (resource, about, last, subjects, statuses, reasons)
  SELECT resource, 'booking', head.last, subjects, statuses, reasons FROM changed JOIN head USING (resource);
  RETURN NULL;
END $$;
--> statement-breakpoint
CREATE TRIGGER bookings_changed AFTER UPDATE ON bookings REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION holdfast_bookings_changed();
--> statement-breakpoint
-- What is no change of a row in the line: stock in and out, and what late money bought again, which is there at once with
-- its status. WHEN keeps the function call off the intake and off the ledger of sales.
CREATE FUNCTION holdfast_one_more(of_resource text, of_kind text, subject uuid, status text, reason text, units bigint)
  RETURNS void LANGUAGE sql AS $$
  WITH head AS (
    INSERT INTO outbox_heads AS h (resource, last) VALUES (of_resource, 1)
    ON CONFLICT (resource) DO UPDATE SET last = h.last + 1 RETURNING last
  )
  INSERT INTO outbox (resource, about, last, subjects, statuses, reasons, delta)
  SELECT of_resource, of_kind, last, ARRAY[subject], ARRAY[status], ARRAY[reason], units FROM head
$$;
--> statement-breakpoint
CREATE FUNCTION holdfast_row_came() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_TABLE_NAME = 'purchases' THEN
    PERFORM holdfast_one_more(NEW.queue, 'purchase', NEW.id, NEW.status, NEW.reason, NULL);
  ELSIF TG_TABLE_NAME = 'bookings' THEN
    PERFORM holdfast_one_more(NEW.resource, 'booking', NEW.id, NEW.status, NEW.reason, NULL);
  ELSE
    PERFORM holdfast_one_more(NEW.resource, 'resource', NULL, 'restocked', NEW.reason, NEW.delta);
  END IF;
  RETURN NULL;
END $$;
--> statement-breakpoint
CREATE TRIGGER purchases_came AFTER INSERT ON purchases FOR EACH ROW WHEN (NEW.status <> 'queued')
  EXECUTE FUNCTION holdfast_row_came();
--> statement-breakpoint
CREATE TRIGGER bookings_came AFTER INSERT ON bookings FOR EACH ROW WHEN (NEW.status <> 'queued')
  EXECUTE FUNCTION holdfast_row_came();
--> statement-breakpoint
-- At the commit: a restock writes the ledger first and locks its resource then, which whoever settles does the other way
-- round; with the head taken last by both, neither waits for the other in a circle.
CREATE CONSTRAINT TRIGGER movements_restocked AFTER INSERT ON movements DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
  WHEN (NEW.purchase IS NULL AND NEW.booking IS NULL) EXECUTE FUNCTION holdfast_row_came();
