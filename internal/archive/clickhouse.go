package archive

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/web"
)

// ClickHouseConfig says where the researchers' files are loaded besides the folder. Start from DefaultClickHouse.
type ClickHouseConfig struct {
	URL       string        `koanf:"url"`       // of the HTTP interface, such as https://clickhouse.example.org:8443; empty: nothing is loaded
	Database  string        `koanf:"database"`  // where the tables are made
	User      string        `koanf:"user"`      // who may make them, insert, select and drop partitions
	CAFile    string        `koanf:"caFile"`    // PEM of the authority that signed the server's certificate; empty: those of the system
	CertFile  string        `koanf:"certFile"`  // PEM of a certificate of our own, where the server asks for one
	KeyFile   string        `koanf:"keyFile"`   // its key
	PlainHTTP bool          `koanf:"plainHttp"` // allow http:// to another machine
	Timeout   time.Duration `koanf:"timeout"`   // for one statement with its file
}

// DefaultClickHouse returns settings under which nothing is loaded.
func DefaultClickHouse() ClickHouseConfig {
	return ClickHouseConfig{Database: "eprod", User: "default", Timeout: 10 * time.Minute}
}

var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// Validate returns every problem at once, each as "key: value: what would be right".
func (c ClickHouseConfig) Validate() error {
	if c.URL == "" {
		return nil
	}
	var problems []error
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "":
		problems = append(problems, errors.New("url: must look like https://host:8443, without an account"))
	case web.InTheClear(u) && !c.PlainHTTP:
		problems = append(problems, errors.New("url: http:// would send health data in the clear: use https://, or set plainHttp for a network that encrypts by itself"))
	}
	if !plainName.MatchString(c.Database) {
		problems = append(problems, fmt.Errorf("database: %q: must be letters, digits and underscores", c.Database))
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		problems = append(problems, errors.New("certFile: and keyFile belong together: set both or neither"))
	}
	if c.Timeout < time.Second {
		problems = append(problems, fmt.Errorf("timeout: %v: must be 1s or more", c.Timeout))
	}
	return errors.Join(problems...)
}

// ClickHouse loads files into a server by its HTTP interface. It is safe for concurrent use.
//
// Every load may be repeated, also one whose reply was lost and that arrives later: the tables are ReplacingMergeTree, whose key
// is that of the rows, so a row that is there twice is one. A file counts as loaded when its rows were read back and have its digest.
type ClickHouse struct {
	config   ClickHouseConfig
	password string
	client   *http.Client
}

// NewClickHouse returns the client; nothing is asked of the server yet.
func NewClickHouse(c ClickHouseConfig, password string) (*ClickHouse, error) {
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("archive.clickhouse.caFile: %w", err)
		}
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("archive.clickhouse.caFile: holds no certificate in PEM")
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("archive.clickhouse.certFile: %w", err)
		}
		settings.Certificates = []tls.Certificate{pair}
	}
	transport := &http.Transport{TLSClientConfig: settings, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 10 * time.Second,
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, ForceAttemptHTTP2: false}
	refuse := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // credentials go to nobody else
	return &ClickHouse{config: c, password: password, client: &http.Client{Transport: transport, Timeout: c.Timeout, CheckRedirect: refuse}}, nil
}

// The tables. Their columns are those of the files, by name.
const (
	answersTable   = "eprod_answers"
	responsesTable = "eprod_responses"
)

// ClickHouseSchema returns the statements that make the tables, for operators who make them by hand.
func ClickHouseSchema(database string) []string {
	return []string{
		"CREATE DATABASE IF NOT EXISTS " + database,
		"CREATE TABLE IF NOT EXISTS " + database + "." + responsesTable + ` (
    part LowCardinality(String), study_id Int64, response_id Int64, participant_id Int64, site_id Int64, task_id Int64,
    questionnaire_url LowCardinality(String), questionnaire_version LowCardinality(String), status LowCardinality(String),
    authored String, zone LowCardinality(String), late Bool, received_at DateTime64(6, 'UTC'), stored_at DateTime64(6, 'UTC'),
    answers Int32, opened Bool
) ENGINE = ReplacingMergeTree PARTITION BY study_id ORDER BY (study_id, response_id)`,
		"CREATE TABLE IF NOT EXISTS " + database + "." + answersTable + ` (
    part LowCardinality(String), study_id Int64, response_id Int64, position Int32, participant_id Int64, site_id Int64, task_id Int64,
    questionnaire_url LowCardinality(String), questionnaire_version LowCardinality(String), link_id LowCardinality(String),
    value_type LowCardinality(String), value_boolean Nullable(Bool), value_number Nullable(Float64), value_text Nullable(String),
    value_system LowCardinality(Nullable(String)), value_code LowCardinality(Nullable(String)), value_unit LowCardinality(Nullable(String)),
    withheld Bool, authored_at Nullable(DateTime64(6, 'UTC')), received_at DateTime64(6, 'UTC')
) ENGINE = ReplacingMergeTree PARTITION BY study_id ORDER BY (study_id, response_id, position)`,
	}
}

// do sends a statement, with a body or nil, and returns the answer's body, which the caller closes.
func (c *ClickHouse) do(ctx context.Context, statement string, body io.Reader, size int64) (io.ReadCloser, error) {
	query := url.Values{"query": {statement}, "wait_end_of_query": {"1"}}
	if body == nil {
		body, size = http.NoBody, 0
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimRight(c.config.URL, "/")+"/?"+query.Encode(), io.NopCloser(body))
	if err != nil {
		return nil, fmt.Errorf("clickhouse: %w", err)
	}
	req.ContentLength = size
	if size == 0 {
		req.Body = http.NoBody
	}
	req.Header.Set("X-ClickHouse-User", c.config.User)
	if c.password != "" {
		req.Header.Set("X-ClickHouse-Key", c.password)
	}
	res, err := c.client.Do(req)
	if err != nil {
		return nil, errClickHouse(err)
	}
	if res.StatusCode != http.StatusOK || res.Header.Get("X-ClickHouse-Exception-Code") != "" {
		defer res.Body.Close()
		_, _ = io.CopyN(io.Discard, res.Body, 64<<10)
		// What it says may repeat a value of a row: only the number leaves.
		return nil, errClickHouse(fmt.Errorf("status %d, exception %q", res.StatusCode, res.Header.Get("X-ClickHouse-Exception-Code")))
	}
	return res.Body, nil
}

// exec sends a statement and reads its answer to the end.
func (c *ClickHouse) exec(ctx context.Context, statement string, body io.Reader, size int64) (string, error) {
	answer, err := c.do(ctx, statement, body, size)
	if err != nil {
		return "", err
	}
	defer answer.Close()
	raw, err := io.ReadAll(io.LimitReader(answer, 1<<20))
	if err != nil {
		return "", errClickHouse(err)
	}
	return strings.TrimSpace(string(raw)), nil
}

func (c *ClickHouse) table(kind string) string {
	if kind == KindAnswers {
		return c.config.Database + "." + answersTable
	}
	return c.config.Database + "." + responsesTable
}

// prepare makes the tables.
func (c *ClickHouse) prepare(ctx context.Context) error {
	for _, statement := range ClickHouseSchema(c.config.Database) {
		if _, err := c.exec(ctx, statement, nil, 0); err != nil {
			return err
		}
	}
	return nil
}

// drop removes what an earlier archive of the study left in the tables.
func (c *ClickHouse) drop(ctx context.Context, study int64) error {
	for _, kind := range []string{KindResponses, KindAnswers} {
		if _, err := c.exec(ctx, fmt.Sprintf("ALTER TABLE %s DROP PARTITION %d", c.table(kind), study), nil, 0); err != nil {
			return err
		}
	}
	return nil
}

// insert loads one file, the same bytes as in the folder.
func (c *ClickHouse) insert(ctx context.Context, kind string, f File) error {
	_, err := c.exec(ctx, "INSERT INTO "+c.table(kind)+" FORMAT Parquet", io.NewSectionReader(f, 0, f.Size()), f.Size())
	return err
}

// fetch copies the rows of one file back, as Parquet.
func (c *ClickHouse) fetch(ctx context.Context, e *Entry, study int64, into io.Writer) error {
	statement := fmt.Sprintf("SELECT * FROM %s FINAL WHERE study_id = %d AND part = '%s' FORMAT Parquet SETTINGS output_format_parquet_string_as_string = 1",
		c.table(e.Kind), study, quoted(e.Path))
	answer, err := c.do(ctx, statement, nil, 0)
	if err != nil {
		return err
	}
	defer answer.Close()
	if _, err := io.Copy(into, answer); err != nil {
		return errClickHouse(err)
	}
	return nil
}

// count returns how many rows a study has in a table, copies included unless final.
func (c *ClickHouse) count(ctx context.Context, kind string, study int64, final bool) (int64, error) {
	word := ""
	if final {
		word = " FINAL"
	}
	raw, err := c.exec(ctx, fmt.Sprintf("SELECT count() FROM %s%s WHERE study_id = %d FORMAT TabSeparated", c.table(kind), word, study), nil, 0)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(raw, 10, 64)
	if err != nil {
		return 0, errClickHouse(errors.New("a count that is no number"))
	}
	return n, nil
}

// merge lets copies of rows become one, for readers who do not say FINAL.
func (c *ClickHouse) merge(ctx context.Context, kind string, study int64) error {
	_, err := c.exec(ctx, fmt.Sprintf("OPTIMIZE TABLE %s PARTITION %d FINAL", c.table(kind), study), nil, 0)
	return err
}

func quoted(s string) string { return strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) }
